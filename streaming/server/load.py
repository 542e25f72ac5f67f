"""How late the streams of a server are, and whether there is room for another one."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from streaming.engine import Engine

__all__ = ["BURST", "WINDOW_SECONDS", "Load", "warm_up"]

WINDOW_SECONDS = 3.0  # what was longer ago says nothing of how late streams are now
BURST = 8  # so many may come within the window whatever is known of those before


class _Turn(NamedTuple):
    """One step of all streams, as it was."""

    at: float
    compute_seconds: float
    audio_seconds: float
    latencies: tuple[float, ...]  # of each stream in it, from when its audio was there to when it was heard


@dataclass
class Load:
    """Measures of the last seconds."""

    _turns: deque[_Turn] = field(default_factory=deque)
    _opened: deque[float] = field(default_factory=deque)

    def opened(self, now: float) -> None:
        """A stream was admitted."""
        self._opened.append(now)

    def heard(self, now: float, compute_seconds: float, audio_seconds: float, latencies: tuple[float, ...]) -> None:
        """A step was done."""
        self._turns.append(_Turn(now, compute_seconds, audio_seconds, latencies))
        self._forget(now)

    def latency_seconds(self, now: float) -> float:
        """The 95th percentile of the streams' latencies; 0 where nothing was heard."""
        self._forget(now)
        latencies = sorted(latency for turn in self._turns for latency in turn.latencies)
        return latencies[math.ceil(0.95 * len(latencies)) - 1] if latencies else 0.0

    def has_room(self, now: float, streams: int, bound_seconds: float) -> bool:
        """Whether the latency stays within the bound with one more stream.

        Those that came within the window hardly show in it yet. With them it may grow as the number of streams does,
        not faster, as they share their steps; a few may come in any case.

        Args:
            now: on the clock of the other calls.
            streams: that are open.
            bound_seconds: of the latency.
        """
        if streams == 0:
            return True  # there is nobody to delay, however slow the machine
        latency = self.latency_seconds(now)
        if latency > bound_seconds:
            return False
        if len(self._opened) < BURST:
            return True
        known = streams - len(self._opened)
        return known > 0 and latency * (streams + 1) <= bound_seconds * known

    def real_time_factor(self, now: float) -> float:
        """Seconds of computing for a second of audio."""
        self._forget(now)
        audio = sum(turn.audio_seconds for turn in self._turns)
        return sum(turn.compute_seconds for turn in self._turns) / audio if audio else 0.0

    def _forget(self, now: float) -> None:
        while self._turns and self._turns[0].at < now - WINDOW_SECONDS:
            self._turns.popleft()
        while self._opened and self._opened[0] < now - WINDOW_SECONDS:
            self._opened.popleft()


def warm_up(engine: Engine) -> None:
    """Spell some noise, so that the first client does not wait for what is done once: buffers, kernels."""
    all_is_speech = replace(engine.config.endpoint, speech_threshold=1e-9, silence_threshold=1e-9)
    trial = Engine(engine.recogniser, replace(engine.config, endpoint=all_is_speech))
    noise = 0.1 * torch.randn(2 * engine.chunk_samples, generator=torch.Generator().manual_seed(0))
    trial.step([trial.start()], [noise], [True])
