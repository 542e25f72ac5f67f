"""Where speech begins and ends: silero-vad's probabilities, and rules with a memory.

The detector runs on windows of 32 ms, many streams in one batch, its state passed in and returned. The rules are pure.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.config import require
from asr.segment import WINDOW_SAMPLES

__all__ = ["Decision", "EndpointConfig", "EndpointState", "VoiceDetector", "VoiceState", "advance"]

_CONTEXT_SAMPLES = 64  # silero-vad sees the end of the window before
_HIDDEN_SIZE = 128


@dataclass(frozen=True)
class EndpointConfig:
    """When a segment begins and ends.

    It begins once windows have reached `speech_threshold` for `min_speech_ms`, and takes `pre_roll_ms` of what came
    before with it, so that the first sound is not lost. It ends after `min_silence_ms` below `silence_threshold`, or
    when it is `max_seconds` long: then at the window least like speech among the last of it. All times are rounded up
    to windows of 32 ms.
    """

    speech_threshold: float = 0.5
    silence_threshold: float = 0.35
    min_speech_ms: int = 96
    min_silence_ms: int = 800
    pre_roll_ms: int = 320
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
        require(0 <= self.pre_roll_ms <= 5_000, "endpoint.pre_roll_ms", self.pre_roll_ms, "in 0..5000")
        require(2 <= self.max_seconds <= 60, "endpoint.max_seconds", self.max_seconds, "in 2..60")
        held_ms = self.pre_roll_ms + self.min_speech_ms
        require(
            held_ms <= 500 * self.max_seconds,
            "endpoint.pre_roll_ms + min_speech_ms",
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
        """Windows before the one that begins a segment which belong to it: the pre-roll, and those that made sure."""
        return _windows(self.pre_roll_ms) + self.speech_windows - 1


def _windows(milliseconds: int) -> int:
    return -(-milliseconds * SAMPLE_RATE // (1000 * WINDOW_SAMPLES))


class Decision(Enum):
    """What a window means for the stream."""

    WAIT = "no segment is open"
    BEGIN = "a segment begins; it includes the pre-roll before this window"
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


class VoiceState(NamedTuple):
    """silero-vad's state of B streams."""

    hidden: Tensor  # (2, B, 128)
    context: Tensor  # (B, 64)

    @classmethod
    def start(cls, batch_size: int, device: torch.device) -> VoiceState:
        return cls(
            torch.zeros(2, batch_size, _HIDDEN_SIZE, device=device),
            torch.zeros(batch_size, _CONTEXT_SAMPLES, device=device),
        )

    @classmethod
    def stack(cls, states: list[VoiceState]) -> VoiceState:
        return cls(torch.cat([s.hidden for s in states], dim=1), torch.cat([s.context for s in states]))

    def split(self) -> list[VoiceState]:
        pairs = zip(self.hidden.split(1, dim=1), self.context.split(1), strict=True)
        return [VoiceState(h, c) for h, c in pairs]


class VoiceDetector:
    """silero-vad as a function of windows and state; the model comes with its package."""

    def __init__(self, device: torch.device) -> None:
        with _one_thread(), warnings.catch_warnings():  # its import sets one thread for the whole process
            warnings.simplefilter("ignore")  # it is stored in a format that torch calls deprecated
            import silero_vad

            self._model: Any = silero_vad.load_silero_vad()._model.to(device)

    @torch.inference_mode()
    def step(self, windows: Tensor, state: VoiceState) -> tuple[Tensor, VoiceState]:
        """Probabilities `(B,)` that `windows` `(B, 512)` at 16 kHz are speech, and the next state."""
        x = torch.cat([state.context, windows], dim=1)
        # Sharing out work this small among threads takes longer than doing it. Nor is it worth to compile it afresh for
        # every number of streams, after which it would not give the very same values as before.
        with _one_thread(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            probabilities, hidden = self._model(x, state.hidden)
        return probabilities[:, 0], VoiceState(hidden, x[:, -_CONTEXT_SAMPLES:])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
