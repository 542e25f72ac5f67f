"""The display of `listen` on a terminal: the words being spoken, a level meter, and a summary at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asr.transcript import Word
from streaming.events import Event, Final, Partial
from streaming.sources.base import AudioSource

__all__ = ["LiveStatistics", "LiveView"]

_KEPT_WORDS = 20_000  # number of latest words in the median latency
_RECENT_WORDS = 20
_DRIFT = 1e-4  # assumed bound on how much slower a device's clock runs than ours
_PACED = 0.9  # audio that arrives in less than this fraction of real time is not live

_METER_CELLS = 20
_QUIETEST_DBFS = -60.0
_LOUD_DBFS = -3.0


class LiveStatistics:
    """Words and their latency: the time from the end of a word to its commit.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.audio_seconds = 0.0
        self.words = 0
        self._clock = clock
        self._started = self._heard_at = clock()
        self._origin = float("inf")  # clock time of the stream's start if no audio had been missed
        self._missed_seconds = 0.0
        self._committed = 0  # words of the open segment
        self._latencies: deque[float] = deque(maxlen=_KEPT_WORDS)

    def heard(self, seconds: float, missed_seconds: float) -> None:
        """Count `seconds` of audio that have just arrived, and update the total of missed audio.

        The stream's start on our clock is estimated from the chunk that came with the least delay: other chunks had to
        wait because the recogniser was busy.
        """
        now = self._clock()
        self.audio_seconds += seconds
        self._origin += missed_seconds - self._missed_seconds + _DRIFT * (now - self._heard_at)
        self._origin = min(self._origin, now - self.audio_seconds)
        self._missed_seconds, self._heard_at = missed_seconds, now

    def show(self, event: Event) -> None:
        """Count the words that an event commits."""
        words: tuple[Word, ...] = event.committed if isinstance(event, Partial) else event.segment.as_spoken().words
        stream_seconds = self._clock() - self._origin  # since the stream's start
        self._latencies.extend(stream_seconds - word.end_seconds for word in words[self._committed :])
        self._committed = len(words)
        if isinstance(event, Final):
            self.words += len(words)
            self._committed = 0

    @property
    def recent_latency_seconds(self) -> float | None:
        """Median latency of the latest words; None without words."""
        recent = list(self._latencies)[-_RECENT_WORDS:]
        return median(recent) if recent else None

    @property
    def latency_seconds(self) -> float | None:
        """Median latency of all words; None without words, or if the audio came faster than real time."""
        live = self._heard_at - self._started >= _PACED * self.audio_seconds
        return median(self._latencies) if live and self._latencies else None

    def summary(self, compute_seconds: float, dropped_seconds: float, overflows: int = 0) -> str:
        """A summary in one line; `overflows` counts the losses of unknown length in the sound system."""
        parts = [f"{_duration(self.audio_seconds)} heard", "1 word" if self.words == 1 else f"{self.words} words"]
        if (latency := self.latency_seconds) is not None:
            parts.append(f"median latency {latency:.2f} s")
        if self.audio_seconds:
            parts.append(f"{compute_seconds / self.audio_seconds:.3f} s of computing per second of audio")
        if dropped_seconds or not overflows:
            parts.append(f"{dropped_seconds:.1f} s dropped" if dropped_seconds else "nothing dropped")
        if overflows:
            parts.append(f"{overflows} gaps left by the sound system")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


class LiveView:
    """Finished segments line by line; below them the words being spoken, with tentative ones dimmed, and a meter.

    A context manager. Lines written to standard error while it is open appear above.

    Args:
        console: a terminal.
        source: the source of the level and the dropped seconds.
        statistics: the source of the latency.
        meter: whether to show the meter.
    """

    def __init__(
        self, console: Console, source: AudioSource, statistics: LiveStatistics, *, meter: bool = True
    ) -> None:
        self._source, self._statistics, self._meter = source, statistics, meter
        self._partial: Partial | None = None
        self._live = Live(
            console=console, transient=True, refresh_per_second=10, get_renderable=self._lines, redirect_stdout=False
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, Partial):
            self._partial = event
            return
        self._partial = None
        self._live.refresh()  # else the text would be shown twice for a moment
        if event.text:
            self._live.console.print(Text(event.text))

    def _lines(self) -> Group:
        partial = self._partial  # another thread may replace it
        lines = []
        if partial is not None:
            words = partial.text.split()
            committed, tentative = " ".join(words[: partial.settled_words]), " ".join(words[partial.settled_words :])
            lines.append(Text.assemble(committed, " " if committed else "", (tentative, "dim")))
        if self._meter:
            lines.append(self._meter_line())
        return Group(*lines)

    def _meter_line(self) -> Text:
        level = self._source.level
        filled = round(_METER_CELLS * min(1.0, max(0.0, 1 - level / _QUIETEST_DBFS)))
        bar = ("█" * filled, "red" if level > _LOUD_DBFS else "green")
        facts = [f"{max(level, _QUIETEST_DBFS):4.0f} dB"]
        if (latency := self._statistics.recent_latency_seconds) is not None:
            facts.append(f"latency {latency:.1f} s")
        if dropped := self._source.dropped_seconds:
            facts.append(f"{dropped:.1f} s dropped")
        return Text.assemble(bar, ("░" * (_METER_CELLS - filled), "dim"), ("  " + " · ".join(facts), "dim"))
