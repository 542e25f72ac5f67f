"""The state of one stream, a value that is passed in and returned, and its transitions that need no model.

A stream waits, with the last of its audio as padding, until someone speaks; then a segment is open until the endpoint
rules end it. Memory is bounded by the longest segment that they allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, SpeechState
from asr.errors import AudioError
from asr.model.features import speech_gains
from asr.search import Spotter
from asr.writing.hotwords import Hotwords
from asr.writing.parts import Style
from asr.writing.writer import Context
from streaming.endpoint import Decision, EndpointConfig, EndpointState, advance
from streaming.open_segment import OpenSegment

__all__ = ["HeardWindow", "Session", "check_chunk"]

# A segment that grows too long is cut within this many windows of its end.
_TAIL_WINDOWS = int(4.0 * SAMPLE_RATE) // WINDOW_SAMPLES

# Windows with at least this probability count for the level at a segment's start. A gain from a tenth of a second is
# unsure, so that not all of it is applied (in dB).
_SPEECH, _TRUST = 0.5, 0.7


class HeardWindow(NamedTuple):
    """A window of 32 ms with its speech probability; only the last of a stream may be shorter."""

    samples: Tensor
    probability: float


@dataclass(frozen=True)
class Session:
    """The state of one stream; made by `Engine.start`."""

    unread: Tensor  # (samples,), less than a window, or not yet stepped
    read_samples: int  # on the stream's clock: read by the speech detector, or lost (`skip`)
    speech: SpeechState  # after all whole windows of `unread`
    endpoint: EndpointState
    latest: tuple[HeardWindow, ...] = ()  # the padding while waiting; else the end of the segment, where it may be cut
    segment: OpenSegment | None = None
    hotwords: Hotwords | None = None
    spotter: Spotter | None = None  # of the hotwords
    style: Style = "written"
    context: Context = field(default_factory=Context)  # what precedes the next segment, for the writer

    @property
    def heard_seconds(self) -> float:
        """Length of the stream up to the unread audio."""
        return self.read_samples / SAMPLE_RATE

    @property
    def open_segment(self) -> OpenSegment:
        """The open segment; a RuntimeError without one."""
        if self.segment is None:
            raise RuntimeError("no segment is open")
        return self.segment

    def receive(self, waveform: Tensor) -> Session:
        """Append audio that has arrived, `(samples,)`."""
        return replace(self, unread=torch.cat([self.unread, waveform])) if len(waveform) else self

    def settle(self) -> Session:
        """Copy the unread audio, so that what was read, and the caller's buffer, can be freed."""
        return replace(self, unread=self.unread.clone())

    def hear(
        self,
        probabilities: Iterable[float],
        config: EndpointConfig,
        fresh: OpenSegment,
        frame_samples: float,
        missing_samples: int = WINDOW_SAMPLES,
    ) -> tuple[Session, int]:
        """Take windows up to one that begins or ends a segment, or that completes what the encoder waits for.

        Args:
            probabilities: the probability that each window of the unread audio is speech, at least one.
            config: endpoint rules.
            fresh: an empty segment, in case one begins.
            frame_samples: audio samples per frame of the encoder's output.
            missing_samples: audio that the encoder waits for, if a segment is open.

        Returns:
            The session, and the number of windows taken.
        """
        most = None
        if self.segment is not None:
            room = math.ceil(config.max_seconds * SAMPLE_RATE) - self.segment.samples
            most = max(1, -(-min(missing_samples, room) // WINDOW_SAMPLES))
        endpoint, decision, taken = self.endpoint, Decision.WAIT, list[float]()
        for probability in itertools.islice(probabilities, most):
            endpoint, decision = advance(endpoint, probability, config)
            taken.append(probability)
            if decision in (Decision.BEGIN, Decision.END):
                break

        waiting = self.segment is None
        keep = config.held_windows if waiting else max(_TAIL_WINDOWS, config.held_windows + 1)
        keep += decision is Decision.BEGIN  # the window that begins a segment is in it, besides those before it
        samples = self.unread[: len(taken) * WINDOW_SAMPLES]
        heard = replace(
            self,
            unread=self.unread[len(samples) :],
            read_samples=self.read_samples + len(samples),
            endpoint=endpoint,
            latest=_latest(self.latest, samples, taken, keep),
        )
        if decision is Decision.BEGIN:
            return heard.begin(fresh), len(taken)
        return (heard if waiting else heard._spoken(samples, decision, config, frame_samples)), len(taken)

    def _spoken(self, samples: Tensor, decision: Decision, config: EndpointConfig, frame_samples: float) -> Session:
        """Append samples that were heard to the open segment, which they may end."""
        before = self.open_segment
        segment = replace(
            before,
            samples=before.samples + len(samples),
            unencoded=torch.cat([before.unencoded, samples * before.gain]),
        )
        heard = replace(self, segment=segment)
        if decision is Decision.END:
            # Half of the silence is left as padding for the next segment, which may begin at once.
            spare = min(config.held_windows, config.silence_windows // 2)
            return heard.cut(max(len(heard.latest) - spare, _first_free(heard.latest, segment, frame_samples)))
        if segment.samples >= config.max_seconds * SAMPLE_RATE:
            return heard.cut_short(config, frame_samples)
        return heard

    def begin(self, fresh: OpenSegment) -> Session:
        """Open a segment that begins with the latest windows."""
        audio = torch.cat([w.samples for w in self.latest])
        start, gain = self.read_samples - len(audio), _gain(self.latest, fresh.speech_db)
        segment = replace(fresh, start_samples=start, samples=len(audio), unencoded=audio * gain, gain=gain)
        return replace(self, segment=segment)

    def cut(self, at: int) -> Session:
        """End the segment before the window `latest[at]`; the windows from there on are kept for the next one."""
        rest = self.latest[at:]
        samples = self.open_segment.samples - sum(len(w.samples) for w in rest)
        return replace(self, latest=rest, segment=replace(self.open_segment, samples=samples, ended=True))

    def cut_short(self, config: EndpointConfig, frame_samples: float) -> Session:
        """End a segment that is too long at its least speech-like window, but after all committed words."""
        half = len(self.latest) - self.open_segment.samples // (2 * WINDOW_SAMPLES)
        first = min(max(half, _first_free(self.latest, self.open_segment, frame_samples)), len(self.latest) - 1)
        at = min(range(first, len(self.latest)), key=lambda i: self.latest[i].probability)
        ended = self.cut(at)
        if all(w.probability < config.silence_threshold for w in ended.latest):  # only silence is left
            return replace(ended, endpoint=EndpointState(), latest=_last(ended.latest, config.held_windows))
        return ended

    def close(self, fresh: OpenSegment) -> Session:
        """Drop the ended segment; if someone is still speaking, the windows after it begin the next one."""
        return self.begin(fresh) if self.endpoint.speaking else replace(self, segment=None)

    def end(self) -> Session:
        """End the segment and wait for the next one, without padding."""
        ended = replace(self.segment, ended=True) if self.segment else None
        return replace(self, endpoint=EndpointState(), latest=(), segment=ended)

    def skip(self, samples: int) -> Session:
        """Advance the clock by audio that was lost. Only after `end`."""
        return replace(self, read_samples=self.read_samples + samples)


def _gain(windows: Sequence[HeardWindow], speech_db: float | None) -> float:
    """The gain of a segment that begins with these windows, by the level of those that are speech."""
    if speech_db is None:
        return 1.0
    speech = [w.samples for w in windows if w.probability >= _SPEECH] or [w.samples for w in windows]
    audio = torch.cat(speech)
    return float(speech_gains(audio[None], torch.tensor([len(audio)]), speech_db) ** _TRUST)


def _latest(
    before: tuple[HeardWindow, ...], samples: Tensor, probabilities: list[float], count: int
) -> tuple[HeardWindow, ...]:
    """The last `count` windows, new ones included."""
    first = max(0, len(probabilities) - count)
    parts = samples[first * WINDOW_SAMPLES :].split(WINDOW_SAMPLES) if first < len(probabilities) else ()
    # Cloned: views would keep the whole chunk in memory.
    new = (HeardWindow(part.clone(), p) for part, p in zip(parts, probabilities[first:], strict=True))
    return _last((*before, *new), count)


def _last(windows: tuple[HeardWindow, ...], count: int) -> tuple[HeardWindow, ...]:
    return windows[max(0, len(windows) - count) :]


def _first_free(latest: tuple[HeardWindow, ...], segment: OpenSegment, frame_samples: float) -> int:
    """The first of the latest windows that lies wholly after the committed words."""
    first_sample = segment.samples - sum(len(w.samples) for w in latest)
    committed = math.ceil((segment.committed_frames * frame_samples - first_sample) / WINDOW_SAMPLES)
    return min(max(0, committed), len(latest))


def check_chunk(chunk: object, source: object) -> None:
    """Refuse anything but 16 kHz mono float32 samples `(samples,)` on the CPU.

    Raises:
        AudioError: names `source` and the reason.
    """
    if not isinstance(chunk, Tensor):
        raise AudioError(source, f"a chunk is of type {type(chunk).__name__}: it must be a torch.Tensor")
    if chunk.dtype != torch.float32 or chunk.dim() != 1 or chunk.device.type != "cpu":
        found = f"{chunk.dtype} {tuple(chunk.shape)} on {chunk.device.type}"
        raise AudioError(source, f"a chunk is {found}: it must be torch.float32 (samples,) on cpu")
    if not bool(chunk.isfinite().all()):
        raise AudioError(source, "a sample in a chunk is NaN or infinite")
