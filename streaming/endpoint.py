"""Endpoint rules: where segments begin and end, from the speech probabilities of 32 ms windows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES
from asr.config import require

__all__ = ["Decision", "EndpointConfig", "EndpointState", "advance"]


@dataclass(frozen=True)
class EndpointConfig:
    """When a segment begins and ends. All times are rounded up to 32 ms windows.

        config = streaming.StreamConfig(endpoint=streaming.EndpointConfig(min_silence_ms=500))

    Attributes:
        speech_threshold: a segment begins after `min_speech_ms` of windows with at least this speech probability.
        silence_threshold: a segment ends after `min_silence_ms` of windows below this probability.
        min_speech_ms: see `speech_threshold`.
        min_silence_ms: see `silence_threshold`.
        padding_ms: audio before a segment's first speech that belongs to it, so that the first sound is not lost.
        max_seconds: longest segment; a longer one is cut at the least speech-like window of its last seconds.

    Raises:
        ConfigError: a setting is out of its bounds.
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
        """Consecutive windows of speech that begin a segment."""
        return max(1, _windows(self.min_speech_ms))

    @property
    def silence_windows(self) -> int:
        """Consecutive windows of silence that end a segment."""
        return _windows(self.min_silence_ms)

    @property
    def held_windows(self) -> int:
        """Windows of a segment before the one that begins it: the padding, and the speech windows before the last."""
        return _windows(self.padding_ms) + self.speech_windows - 1


def _windows(milliseconds: int) -> int:
    return -(-milliseconds * SAMPLE_RATE // (1000 * WINDOW_SAMPLES))


class Decision(Enum):
    """The consequence of a window."""

    WAIT = "no segment is open"
    BEGIN = "a segment begins, including the held windows before this one"
    SPEAK = "the open segment continues"
    END = "the open segment ends with this window"


@dataclass(frozen=True)
class EndpointState:
    """State of the rules for one stream."""

    speaking: bool = False
    run: int = 0  # consecutive windows: of speech while waiting, of silence while speaking


def advance(state: EndpointState, probability: float, config: EndpointConfig) -> tuple[EndpointState, Decision]:
    """Take the speech probability of the next window; return the next state and the decision."""
    if state.speaking:
        run = state.run + 1 if probability < config.silence_threshold else 0
        if run >= config.silence_windows:
            return EndpointState(), Decision.END
        return EndpointState(True, run), Decision.SPEAK
    run = state.run + 1 if probability >= config.speech_threshold else 0
    if run >= config.speech_windows:
        return EndpointState(True, 0), Decision.BEGIN
    return EndpointState(False, run), Decision.WAIT
