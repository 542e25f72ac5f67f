"""How late the streams of a server are, what they cost, and whether there is room for another one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from streaming.engine import Engine

__all__ = ["BURST", "MAX_USE", "WINDOW_SECONDS", "Load", "Turn", "warm_up"]

WINDOW_SECONDS = 10.0  # shorter ones differ by chance, and who asks often enough would come in by the best of them
BURST = 4  # streams of which nothing is known yet may be so many, or as many as those that are known
MAX_USE = 0.8  # of the engine's time that streams may need: people do not speak evenly


class Turn(NamedTuple):
    """One step of all streams, as it was."""

    at: float  # when it was done
    compute_seconds: float
    audio_seconds: float  # of all streams together
    latencies: tuple[float, ...]  # of each stream in it, from when its audio was there to when it was heard
    streams: int  # that were open


@dataclass
class Load:
    """Measures of the last seconds."""

    _turns: deque[Turn] = field(default_factory=deque)

    def heard(self, turn: Turn) -> None:
        """A step was done."""
        self._turns.append(turn)
        self._recent(turn.at)

    def has_room(self, now: float, opened: Collection[float], max_latency_seconds: float, max_use: float) -> bool:
        """Whether the open streams stay in time with one more.

        All that was measured is taken for as many streams as were open then, whichever they were, and scaled to one
        more than are open now: those that have gone count no more, those that have hardly begun count in full. A stream
        that has been open for longer than what is measured and sent nothing is idle: it takes no part in a burst.

        Args:
            now: on the clock of the turns.
            opened: when each stream that is open was, on the same clock.
            max_latency_seconds: bound of their latency. It shows whatever makes them late.
            max_use: bound of `use`, which shows first where the latency stays low up to where it grows without end.
        """
        if not (streams := len(opened)):
            return True  # there is nobody to delay, however slow the machine
        known = _mean_streams(self._recent(now))
        young = sum(at >= now - WINDOW_SECONDS for at in opened)
        if min(streams - known, young) >= max(BURST, known):
            return False
        return self.latency_seconds(now, streams + 1) <= max_latency_seconds and self.use(now, streams + 1) <= max_use

    def latency_seconds(self, now: float, streams: int) -> float:
        """The 95th percentile of the latencies, grown as the number of streams has; 0 where nothing was heard."""
        turns = self._recent(now)
        latencies = sorted(latency * streams / turn.streams for turn in turns for latency in turn.latencies)
        return latencies[math.ceil(0.95 * len(latencies)) - 1] if latencies else 0.0

    def use(self, now: float, streams: int) -> float:
        """The share of the engine's time that so many streams need, those that come faster than real time at that."""
        turns = self._recent(now)
        if not (audio := sum(turn.audio_seconds for turn in turns)):
            return 0.0
        known = _mean_streams(turns)
        rate = min(known, audio / max(1.0, now - turns[0].at))  # seconds of audio in a second
        return _marginal_cost(turns) * rate * streams / known

    def real_time_factor(self, now: float) -> float:
        """Seconds of computing for a second of audio."""
        turns = self._recent(now)
        return _mean_cost(turns) if any(turn.audio_seconds for turn in turns) else 0.0

    def _recent(self, now: float) -> deque[Turn]:
        while self._turns and self._turns[0].at < now - WINDOW_SECONDS:
            self._turns.popleft()
        return self._turns


def _mean_streams(turns: Sequence[Turn]) -> float:
    return sum(turn.streams for turn in turns) / len(turns) if turns else 0.0


def _mean_cost(turns: Sequence[Turn]) -> float:
    return sum(turn.compute_seconds for turn in turns) / sum(turn.audio_seconds for turn in turns)


def _marginal_cost(turns: Sequence[Turn]) -> float:
    """Seconds of computing for another second of audio in a turn: at most what one costs on average.

    It is less where a turn costs something whatever is in it, as on a GPU: there the engine may be at work all the time
    with room for many more. By least squares, and not less than twice the standard error above that.
    """
    mean_cost, count = _mean_cost(turns), len(turns)
    audio = sum(turn.audio_seconds for turn in turns) / count
    compute = sum(turn.compute_seconds for turn in turns) / count
    points = [(turn.audio_seconds - audio, turn.compute_seconds - compute) for turn in turns]
    spread = sum(x * x for x, _ in points)
    if count < 3 or not spread:
        return mean_cost
    slope = sum(x * y for x, y in points) / spread
    error = math.sqrt(sum((y - slope * x) ** 2 for x, y in points) / (count - 2) / spread)
    return min(mean_cost, max(0.0, slope) + 2 * error)


def warm_up(engine: Engine) -> None:
    """Spell some noise, so that the first client does not wait for what is done once: buffers, kernels."""
    all_is_speech = replace(engine.config.endpoint, speech_threshold=1e-9, silence_threshold=1e-9)
    trial = Engine(engine.recogniser, replace(engine.config, endpoint=all_is_speech))
    noise = 0.1 * torch.randn(2 * engine.chunk_samples, generator=torch.Generator().manual_seed(0))
    trial.step([trial.start()], [noise], [True])
