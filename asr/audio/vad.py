"""Whether someone speaks: silero-vad on windows of 32 ms, any number of streams in one batch, its state a value."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["WINDOW_SAMPLES", "VoiceDetector", "VoiceState"]

WINDOW_SAMPLES = 512  # 32 ms: the only window that silero-vad takes at 16 kHz
_CONTEXT_SAMPLES = 64  # it also sees the end of the window before
_HIDDEN_SIZE = 128


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
    """silero-vad as a function of windows and state; the model comes with its package, and is loaded once a process."""

    def __init__(self, device: torch.device) -> None:
        self._model = _load(str(device))

    @torch.inference_mode()
    def step(self, windows: Tensor, state: VoiceState) -> tuple[Tensor, VoiceState]:
        """Probabilities `(B,)` that `windows` `(B, 512)` at 16 kHz are speech, and the next state."""
        x = torch.cat([state.context, windows], dim=1)
        # Sharing out work this small among threads takes longer than doing it. Nor is it worth to compile it afresh for
        # every number of streams, after which it would not give the very same values as before.
        with _one_thread(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            probabilities, hidden = self._model(x, state.hidden)
        return probabilities[:, 0], VoiceState(hidden, x[:, -_CONTEXT_SAMPLES:])


@functools.cache
def _load(device: str) -> Any:
    with _one_thread(), warnings.catch_warnings():  # its import sets one thread for the whole process
        warnings.simplefilter("ignore")  # it is stored in a format that torch calls deprecated
        import silero_vad

        return silero_vad.load_silero_vad()._model.to(device)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
