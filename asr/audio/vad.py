"""Voice activity detection: silero-vad on windows of 32 ms, batched over streams, with state passed in and returned."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.errors import DependencyError

__all__ = ["WINDOW_SAMPLES", "SpeechDetector", "SpeechState", "StreamDetector"]

WINDOW_SAMPLES = 512  # 32 ms: the only window that silero-vad takes at 16 kHz
_CONTEXT_SAMPLES = 64  # end of the previous window, part of the input
_HIDDEN_SIZE = 128


class SpeechState(NamedTuple):
    """The recurrent state of silero-vad for B streams."""

    hidden: Tensor  # (2, B, 128)
    context: Tensor  # (B, 64)

    @classmethod
    def start(cls, batch_size: int, device: torch.device) -> SpeechState:
        return cls(
            torch.zeros(2, batch_size, _HIDDEN_SIZE, device=device),
            torch.zeros(batch_size, _CONTEXT_SAMPLES, device=device),
        )

    @classmethod
    def stack(cls, states: list[SpeechState]) -> SpeechState:
        return cls(torch.cat([s.hidden for s in states], dim=1), torch.cat([s.context for s in states]))

    def split(self) -> list[SpeechState]:
        pairs = zip(self.hidden.split(1, dim=1), self.context.split(1), strict=True)
        return [SpeechState(h, c) for h, c in pairs]


class SpeechDetector:
    """silero-vad as a function of windows and state; each process loads the weights of the package once."""

    def __init__(self, device: torch.device) -> None:
        self._model = _load(str(device))

    @torch.inference_mode()
    def step(self, windows: Tensor, state: SpeechState) -> tuple[Tensor, SpeechState]:
        """Probabilities `(B,)` that `windows` `(B, 512)` at 16 kHz are speech, and the next state."""
        x = torch.cat([state.context, windows], dim=1)
        # One thread is faster than several for so little work. The optimising executor would compile again for every
        # number of streams, and its results are not bit-identical.
        with _one_thread(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            probabilities, hidden = self._model(x, state.hidden)
        return probabilities[:, 0], SpeechState(hidden, x[:, -_CONTEXT_SAMPLES:])


class StreamDetector:
    """`SpeechDetector` for a single stream on the CPU, with its state inside."""

    def __init__(self) -> None:
        self._detector = SpeechDetector(torch.device("cpu"))
        self._state = SpeechState.start(1, torch.device("cpu"))

    def step(self, window: Tensor) -> float:
        """The probability, 0 to 1, that the next window, at most `(512,)` samples at 16 kHz, is speech."""
        padded = torch.nn.functional.pad(window, (0, WINDOW_SAMPLES - len(window)))
        probability, self._state = self._detector.step(padded[None], self._state)
        return float(probability)


@functools.cache
def _load(device: str) -> Any:
    # The package is located but not imported: importing it limits the whole process to one thread, and in some versions
    # fails if torchaudio cannot be loaded.
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise DependencyError("voice detection needs silero-vad: pip install silero-vad")
    network = Path(package.origin).parent / "data" / "silero_vad.jit"
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format of the network
        return torch.jit.load(str(network), map_location=device).eval()._model


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
