"""Where speech begins and ends: rules with a memory over the speech probabilities of windows of 32 ms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES
from asr.config import require

__all__ = ["Decision", "EndpointConfig", "EndpointState", "advance"]


@dataclass(frozen=True)
class EndpointConfig:
    """When a segment begins and ends.

    It begins once windows have reached `speech_threshold` for `min_speech_ms`, and takes `padding_ms` of what came
    before with it, so that the first sound is not lost. It ends after `min_silence_ms` below `silence_threshold`, or
    when it is `max_seconds` long: then at the window least like speech among the last of it. All times are rounded up
    to windows of 32 ms.
    """

    speech_threshold: float = 0.5
    silence_threshold: float = 0.35
    min_speech_ms: int = 96
    min_silence_ms: int = 800
    padding_ms: int = 640
    max_seconds: float = 20.0

    def __post_init__(self) -> None:
        require(0 < self.speech_threshold < 1, "endpoint.speech_threshold", self.speech_threshold, "between 0 and 1")
        require(
            0 < self.silence_threshold <= self.speech_threshold,
            "endpoint.silence_threshold",
            self.silence_threshold,
            "above 0 and at most speech_threshold",
        )
        require(self.min_speech_ms >= 0, "endpoint.min_speech_ms", self.min_speech_ms, "at least 0")
        require(self.min_silence_ms > 0, "endpoint.min_silence_ms", self.min_silence_ms, "positive")
        require(0 <= self.padding_ms <= 5_000, "endpoint.padding_ms", self.padding_ms, "in 0..5000")
        require(2 <= self.max_seconds <= 60, "endpoint.max_seconds", self.max_seconds, "in 2..60")
        held_ms = self.padding_ms + self.min_speech_ms
        require(
            held_ms <= 500 * self.max_seconds,
            "endpoint.padding_ms + min_speech_ms",
            held_ms,
            f"at most half of max_seconds ({self.max_seconds})",
        )

    @property
    def speech_windows(self) -> int:
        """Windows of speech in a row that begin a segment."""
        return max(1, _windows(self.min_speech_ms))

    @property
    def silence_windows(self) -> int:
        """Windows of silence in a row that end a segment."""
        return _windows(self.min_silence_ms)

    @property
    def held_windows(self) -> int:
        """Windows before the one that begins a segment which belong to it: the padding, and those that made sure."""
        return _windows(self.padding_ms) + self.speech_windows - 1


def _windows(milliseconds: int) -> int:
    return -(-milliseconds * SAMPLE_RATE // (1000 * WINDOW_SAMPLES))


class Decision(Enum):
    """What a window means for the stream."""

    WAIT = "no segment is open"
    BEGIN = "a segment begins; it includes the padding before this window"
    SPEAK = "the open segment goes on"
    END = "the open segment ends with this window"


@dataclass(frozen=True)
class EndpointState:
    """What the rules remember of one stream."""

    speaking: bool = False
    run: int = 0  # windows of speech in a row while waiting; of silence in a row while speaking


def advance(state: EndpointState, probability: float, config: EndpointConfig) -> tuple[EndpointState, Decision]:
    """Take the speech probability of the next window."""
    if state.speaking:
        run = state.run + 1 if probability < config.silence_threshold else 0
        if run >= config.silence_windows:
            return EndpointState(), Decision.END
        return EndpointState(True, run), Decision.SPEAK
    run = state.run + 1 if probability >= config.speech_threshold else 0
    if run >= config.speech_windows:
        return EndpointState(True, 0), Decision.BEGIN
    return EndpointState(False, run), Decision.WAIT
