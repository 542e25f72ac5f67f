"""Cuts long audio at its silences, window by window, in flat memory.

silero-vad says how likely each window of 32 ms is speech; `Cutter` turns these probabilities into spans: it drops what
is not speech and, where someone talks on without a pause, cuts at the window least like speech.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, StreamDetector
from asr.config import require

__all__ = ["WINDOW_SAMPLES", "Cutter", "SegmentConfig", "Span", "split", "steps"]

_STEP_WINDOWS = 10 * SAMPLE_RATE // WINDOW_SAMPLES


@dataclass(frozen=True)
class SegmentConfig:
    """Where to cut.

    A pause of `min_silence_ms` ends a span, and what is left of it after `padding_ms` on either side is dropped. Speech
    begins at a window whose probability reaches `speech_threshold` and goes on while windows stay at or above
    `silence_threshold`; bursts of less than `min_speech_ms` are noise.
    """

    max_seconds: float = 20.0
    min_silence_ms: int = 500
    min_speech_ms: int = 64
    padding_ms: int = 250
    speech_threshold: float = 0.5
    silence_threshold: float = 0.35
    presence_threshold: float = 0.3  # a short source without a window this likely to be speech is left out; 0 takes all

    def __post_init__(self) -> None:
        half_ms = 500 * self.max_seconds
        require(1 <= self.max_seconds <= 3600, "segment.max_seconds", self.max_seconds, "in 1..3600")
        require(
            0 < self.min_silence_ms <= half_ms,
            "segment.min_silence_ms",
            self.min_silence_ms,
            "above 0 and at most half of max_seconds",
        )
        require(0 <= self.min_speech_ms <= half_ms, "segment.min_speech_ms", self.min_speech_ms, "in 0..max_seconds/2")
        require(
            0 <= self.padding_ms <= self.min_silence_ms, "segment.padding_ms", self.padding_ms, "in 0..min_silence_ms"
        )
        require(0 < self.speech_threshold < 1, "segment.speech_threshold", self.speech_threshold, "between 0 and 1")
        require(
            0 < self.silence_threshold <= self.speech_threshold,
            "segment.silence_threshold",
            self.silence_threshold,
            "above 0 and at most speech_threshold",
        )
        require(0 <= self.presence_threshold < 1, "segment.presence_threshold", self.presence_threshold, "in [0, 1)")


@dataclass(frozen=True)
class Span:
    """One stretch of a source: where it starts, and its 16 kHz samples `(samples,)`."""

    start_seconds: float
    waveform: torch.Tensor


class Cutter:
    """Decides where to cut from the speech probabilities of successive windows, holding those of one span at most.

    Positions are samples from the start of the source. Spans come in order, do not overlap and are at most
    `max_seconds` long.
    """

    def __init__(self, config: SegmentConfig) -> None:
        self._config = config
        self._max = int(config.max_seconds * SAMPLE_RATE)
        self._min_silence = config.min_silence_ms * SAMPLE_RATE // 1000
        self._min_speech = config.min_speech_ms * SAMPLE_RATE // 1000
        self._padding = config.padding_ms * SAMPLE_RATE // 1000
        self._position = 0  # end of the latest window
        self._previous_end = 0  # of the latest span
        self._start: int | None = None  # of the open span
        self._speech_end = 0  # end of the latest window that was speech
        self._probabilities: list[float] = []  # of the windows since the first that reaches into the open span
        self._first_window = 0  # where the first of these starts
        self._continued = False  # the open span goes on from a cut made while someone spoke

    @property
    def needed_from(self) -> int:
        """No later span will start before this sample."""
        if self._start is not None:
            return self._start
        return max(self._previous_end, self._position - self._padding)

    def push(self, probability: float) -> tuple[int, int] | None:
        """Take the next window's speech probability; return the span `(start, end)` that this completes, if any."""
        window = self._position
        self._position += WINDOW_SAMPLES
        if self._start is None:
            if probability < self._config.speech_threshold:
                return None
            self._open(max(self._previous_end, window - self._padding), window)
        self._probabilities.append(probability)
        if probability >= self._config.silence_threshold:
            self._speech_end = self._position
        if self._position - self._speech_end >= self._min_silence:
            return self._close(self._position)
        if self._start is not None and self._position - self._start > self._max:
            return self._cut(self._start)
        return None

    def finish(self, total_samples: int) -> tuple[int, int] | None:
        """End of the source, which is `total_samples` long; return the span that was open, if any."""
        # The last window may be so short that a cut through the middle of a whole one left nothing behind it.
        return None if self._start is None or self._start >= total_samples else self._close(total_samples)

    def _open(self, start: int, window: int) -> None:
        self._start, self._first_window = start, window
        self._probabilities = []
        self._continued = False

    def _close(self, limit: int) -> tuple[int, int] | None:
        """End the open span behind its last speech."""
        start = self._start or 0
        end = min(self._speech_end + self._padding, start + self._max, limit)
        loud = sum(probability >= self._config.speech_threshold for probability in self._probabilities)
        self._start = None
        if not self._continued and loud * WINDOW_SAMPLES < self._min_speech:
            return None
        self._previous_end = end
        return start, end

    def _cut(self, start: int) -> tuple[int, int]:
        """Cut through the middle of the window that is least like speech, in the later half of a span that is full."""
        centre = self._first_window + WINDOW_SAMPLES // 2
        cuts = range(centre, self._position, WINDOW_SAMPLES)
        allowed = [index for index, cut in enumerate(cuts) if start + self._max // 2 <= cut <= start + self._max]
        best = min(allowed, key=lambda index: self._probabilities[index])
        cut = cuts[best]
        self._previous_end = cut
        if self._speech_end <= cut:  # only silence is left behind the cut
            self._start = None
        else:
            self._start = cut
            self._first_window += best * WINDOW_SAMPLES
            self._probabilities = self._probabilities[best:]
            self._continued = True
        return start, cut


def split(waveform_blocks: Iterable[torch.Tensor], config: SegmentConfig | None = None) -> Iterator[Span]:
    """Cut a source into spans of speech; how it comes cut into blocks does not matter.

    Args:
        waveform_blocks: 16 kHz mono float32 tensors `(samples,)`, as `asr.audio.blocks` yields them.
        config: where to cut.

    Yields:
        Spans in order that do not overlap, each at most `max_seconds` long. A source no longer than that comes whole if
        any window of it reaches `presence_threshold`. No samples give no spans, and nor does what is not speech.
    """
    return (span for span in steps(waveform_blocks, config) if span is not None)


def steps(waveform_blocks: Iterable[torch.Tensor], config: SegmentConfig | None = None) -> Iterator[Span | None]:
    """What `split` does, for a caller who has others to serve: at least every ten seconds of audio a span, or None."""
    config = config or SegmentConfig()
    windows = _windows(waveform_blocks)
    max_samples = int(config.max_seconds * SAMPLE_RATE)
    head = list(itertools.islice(windows, max_samples // WINDOW_SAMPLES + 1))
    if sum(map(len, head)) <= max_samples:
        # Mostly, the first few windows tell.
        if head and (config.presence_threshold == 0 or _present(head, config.presence_threshold)):
            yield Span(0.0, torch.cat(head))
        return

    detector, cutter, history = StreamDetector(), Cutter(config), _History()
    for count, window in enumerate(itertools.chain(head, windows), start=1):
        history.append(window)
        if found := cutter.push(detector.step(window)):
            yield history.span(*found)
        elif count % _STEP_WINDOWS == 0:
            yield None
        history.release(cutter.needed_from)
    if found := cutter.finish(history.end):
        yield history.span(*found)


def _present(windows: Iterable[torch.Tensor], threshold: float) -> bool:
    """Whether any of the windows is likely to be speech."""
    detector = StreamDetector()
    return any(detector.step(window) >= threshold for window in windows)


class _History:
    """The latest windows of a source, addressed by samples from its start."""

    def __init__(self) -> None:
        self._windows: deque[torch.Tensor] = deque()
        self._start = 0
        self.end = 0

    def append(self, window: torch.Tensor) -> None:
        self._windows.append(window)
        self.end += len(window)

    def release(self, position: int) -> None:
        """Let go of the windows that lie wholly before `position`."""
        while self._windows and self._start + len(self._windows[0]) <= position:
            self._start += len(self._windows.popleft())

    def span(self, start: int, end: int) -> Span:
        first, last = (start - self._start) // WINDOW_SAMPLES, -(-(end - self._start) // WINDOW_SAMPLES)
        waveform = torch.cat(list(itertools.islice(self._windows, first, last)))
        offset = start - self._start - first * WINDOW_SAMPLES
        return Span(start / SAMPLE_RATE, waveform[offset : offset + end - start].clone())


def _windows(waveform_blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Regroup blocks of any length into windows of 512 samples; the last one may be shorter."""
    rest = torch.empty(0)
    for block in waveform_blocks:
        pieces = torch.cat([rest, block]).split(WINDOW_SAMPLES)
        rest = torch.empty(0)
        for piece in pieces:
            if len(piece) < WINDOW_SAMPLES:
                rest = piece
            else:
                yield piece
    if len(rest):
        yield rest
