"""The state of one stream, and those of its transitions that need no model: a value that is passed in and returned.

A stream waits, with the last of its audio as padding, until someone speaks; then a segment is open until the endpoint
rules end it. Memory is bounded by the longest segment that they allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, SpeechState
from asr.errors import AudioError
from asr.search import Spotter
from asr.writing.hotwords import Hotwords
from asr.writing.parts import Style
from asr.writing.writer import Context
from streaming.endpoint import Decision, EndpointConfig, EndpointState, advance
from streaming.open_segment import OpenSegment

__all__ = ["HeardWindow", "Session", "check_chunk"]

# A segment that grows too long is cut within this many windows of its end.
_TAIL_WINDOWS = int(4.0 * SAMPLE_RATE) // WINDOW_SAMPLES


class HeardWindow(NamedTuple):
    """A window of 32 ms with its speech probability; only the last of a stream may be shorter."""

    samples: Tensor
    probability: float


@dataclass(frozen=True)
class Session:
    """The state of one stream; made by `Engine.start`."""

    unread: Tensor  # (samples,), less than a window, or not yet stepped
    read_samples: int  # that went through the speech detector
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
        """Length of the stream that went through the speech detector."""
        return self.read_samples / SAMPLE_RATE

    @property
    def open_segment(self) -> OpenSegment:
        """The segment, where one must be open."""
        if self.segment is None:
            raise RuntimeError("no segment is open")
        return self.segment

    def receive(self, waveform: Tensor) -> Session:
        """Append audio that has arrived, `(samples,)`."""
        return replace(self, unread=torch.cat([self.unread, waveform])) if len(waveform) else self

    def settle(self) -> Session:
        """Copy the unread audio, so that what was read, and the caller's buffer, can be freed."""
        return replace(self, unread=self.unread.clone())

    def hear(self, probability: float, config: EndpointConfig, fresh: OpenSegment, frame_samples: float) -> Session:
        """Take the next window with its speech probability; may begin or end a segment.

        Args:
            probability: the probability that the window is speech.
            config: endpoint rules.
            fresh: an empty segment, in case one begins.
            frame_samples: audio samples per frame of the encoder's output.
        """
        window = self.unread[:WINDOW_SAMPLES].clone()  # a view would keep the whole chunk in memory
        endpoint, decision = advance(self.endpoint, probability, config)
        keep = config.held_windows if decision is Decision.WAIT else max(_TAIL_WINDOWS, config.held_windows + 1)
        heard = replace(
            self,
            unread=self.unread[WINDOW_SAMPLES:],
            read_samples=self.read_samples + len(window),
            endpoint=endpoint,
            latest=_last((*self.latest, HeardWindow(window, probability)), keep),
        )
        if decision is Decision.BEGIN:
            return heard.begin(fresh)
        if self.segment is None:
            return heard

        segment = replace(
            self.segment,
            samples=self.segment.samples + len(window),
            unencoded=torch.cat([self.segment.unencoded, window]),
        )
        heard = replace(heard, segment=segment)
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
        start = self.read_samples - len(audio)
        return replace(self, segment=replace(fresh, start_samples=start, samples=len(audio), unencoded=audio))

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
