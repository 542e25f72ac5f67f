"""Segmentation of audio at its pauses, window by window, in constant memory.

silero-vad gives the probability of speech in each window of 32 ms; `Cutter` derives spans of speech from these
probabilities. It drops silence, and cuts speech without pauses at the window with the lowest probability.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, Apply, StreamDetector
from asr.config import require

__all__ = ["WINDOW_SAMPLES", "Cutter", "SegmentConfig", "Span", "split", "steps"]

# Seconds of audio in a call of the detector. Calls of 12 s take half the CPU of calls of 3 s; longer ones gain nothing.
_SPLIT_SECONDS, _STEP_SECONDS = 12, 3


@dataclass(frozen=True)
class SegmentConfig:
    """Where to cut audio into spans of speech.

    A source without pauses that is at most `max_seconds` long stays whole. The defaults were chosen on joined and on
    single utterances by recipes/benchmark/pauses.py.

    Args:
        max_seconds: longest span; longer speech is cut at the window of lowest probability in the span's later half.
        min_silence_ms: a pause of this length ends a span.
        min_speech_ms: shorter speech is dropped as noise.
        padding_ms: silence kept on either side of a span.
        speech_threshold: probability at which speech begins.
        silence_threshold: probability below which a window within speech is silence.
        presence_threshold: a source of at most `max_seconds` whose windows are all below this probability has no
            speech; with 0, every source has.
    """

    max_seconds: float = 20.0
    min_silence_ms: int = 700
    min_speech_ms: int = 64
    padding_ms: int = 350
    speech_threshold: float = 0.5
    silence_threshold: float = 0.35
    presence_threshold: float = 0.3

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
    """A part of a source: its start, and its 16 kHz samples `(samples,)`."""

    start_seconds: float
    waveform: torch.Tensor


class Cutter:
    """Finds spans from the speech probabilities of consecutive windows; keeps the probabilities of one span.

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
        self._probabilities: list[float] = []  # of the open span's windows
        self._first_window = 0  # start of the first of these
        self._continued = False  # the open span starts at a cut within speech

    @property
    def needed_from(self) -> int:
        """The earliest sample at which a later span can start."""
        if self._start is not None:
            return self._start
        return max(self._previous_end, self._position - self._padding)

    def push(self, probability: float) -> tuple[int, int] | None:
        """Take the next window's speech probability; return the span `(start, end)` that ends here, if any."""
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
        """End the source, which is `total_samples` long; return the open span, if any."""
        # The last cut was in the middle of a window, which may be beyond the end of a shorter last window.
        return None if self._start is None or self._start >= total_samples else self._close(total_samples)

    def _open(self, start: int, window: int) -> None:
        self._start, self._first_window = start, window
        self._probabilities = []
        self._continued = False

    def _close(self, limit: int) -> tuple[int, int] | None:
        """End the open span after its last speech; None if that is shorter than `min_speech_ms`."""
        start = self._start or 0
        end = min(self._speech_end + self._padding, start + self._max, limit)
        loud = sum(probability >= self._config.speech_threshold for probability in self._probabilities)
        self._start = None
        if not self._continued and loud * WINDOW_SAMPLES < self._min_speech:
            return None
        self._previous_end = end
        return start, end

    def _cut(self, start: int) -> tuple[int, int]:
        """Cut a full span in the middle of the window of lowest probability in its later half."""
        centre = self._first_window + WINDOW_SAMPLES // 2
        cuts = range(centre, self._position, WINDOW_SAMPLES)
        allowed = [index for index, cut in enumerate(cuts) if start + self._max // 2 <= cut <= start + self._max]
        best = min(allowed, key=lambda index: self._probabilities[index])
        cut = cuts[best]
        self._previous_end = cut
        if self._speech_end <= cut:  # only silence follows the cut
            self._start = None
        else:
            self._start = cut
            self._first_window += best * WINDOW_SAMPLES
            self._probabilities = self._probabilities[best:]
            self._continued = True
        return start, cut


def split(
    waveform_blocks: Iterable[torch.Tensor], config: SegmentConfig | None = None, apply: Apply = map
) -> Iterator[Span]:
    """Cut a source into spans of speech, independently of the sizes of its blocks.

    Args:
        waveform_blocks: 16 kHz mono float32 tensors `(samples,)`, as `asr.audio.blocks` yields them.
        config: where to cut.
        apply: for the detector, see `StreamDetector.run`.

    Yields:
        Spans in order that do not overlap, each at most `max_seconds` long. A source of at most `max_seconds` without
        a pause between two spans is one span if any window reaches `presence_threshold`.
    """
    return (span for span in steps(waveform_blocks, config, _SPLIT_SECONDS, apply) if span is not None)


def steps(
    waveform_blocks: Iterable[torch.Tensor],
    config: SegmentConfig | None = None,
    seconds: int = _STEP_SECONDS,
    apply: Apply = map,
) -> Iterator[Span | None]:
    """As `split`, but yield a span or None at least every few `seconds` of audio, so that callers can do other work."""
    config = config or SegmentConfig()
    windows = _windows(waveform_blocks)
    max_samples = int(config.max_seconds * SAMPLE_RATE)
    head = list(itertools.islice(windows, max_samples // WINDOW_SAMPLES + 1))
    if sum(map(len, head)) <= max_samples:
        yield from _short_source(head, config)
        return

    cutter, history = Cutter(config), _History()
    windows, count = itertools.chain(head, windows), seconds * SAMPLE_RATE // WINDOW_SAMPLES
    groups = iter(lambda: list(itertools.islice(windows, count)), [])
    for group, probabilities in StreamDetector().run(groups, apply):
        for window, probability in zip(group, probabilities, strict=True):
            history.append(window)
            if found := cutter.push(probability):
                yield history.span(*found)
            history.release(cutter.needed_from)
        yield None
    if found := cutter.finish(history.end):
        yield history.span(*found)


def _short_source(windows: Sequence[torch.Tensor], config: SegmentConfig) -> Iterator[Span]:
    """Cut a source of at most `max_seconds` at its pauses; without pauses it is one span, silence included."""
    if not windows:
        return
    ((_, probabilities),) = StreamDetector().run([windows])
    if max(probabilities) < config.presence_threshold:
        return
    waveform, cutter = torch.cat(list(windows)), Cutter(config)
    found = [*map(cutter.push, probabilities), cutter.finish(len(waveform))]
    spans = [span for span in found if span is not None]
    if len(spans) < 2:
        spans = [(0, len(waveform))]
    for start, end in spans:
        yield Span(start / SAMPLE_RATE, waveform[start:end].clone())


class _History:
    """The latest windows of a source, indexed by samples from its start."""

    def __init__(self) -> None:
        self._windows: deque[torch.Tensor] = deque()
        self._start = 0
        self.end = 0

    def append(self, window: torch.Tensor) -> None:
        self._windows.append(window)
        self.end += len(window)

    def release(self, position: int) -> None:
        """Drop the windows that end at or before `position`."""
        while self._windows and self._start + len(self._windows[0]) <= position:
            self._start += len(self._windows.popleft())

    def span(self, start: int, end: int) -> Span:
        first, last = (start - self._start) // WINDOW_SAMPLES, -(-(end - self._start) // WINDOW_SAMPLES)
        waveform = torch.cat(list(itertools.islice(self._windows, first, last)))
        offset = start - self._start - first * WINDOW_SAMPLES
        return Span(start / SAMPLE_RATE, waveform[offset : offset + end - start].clone())


def _windows(waveform_blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Split blocks of any length into windows of 512 samples; only the last may be shorter."""
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
