"""The load of a server: latency and cost of its streams, and whether there is room for another one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch

from streaming.engine import Engine

__all__ = ["BURST", "MAX_USE", "WINDOW_SECONDS", "Load", "Turn", "warm_up"]

WINDOW_SECONDS = 10.0  # in shorter windows the load varies by chance, and frequent requests would hit the best ones
BURST = 4  # unmeasured streams admitted at a time, or as many as are already measured if that is more
_RATE_SECONDS = 3.0  # shortest span for measuring the rate of audio; before, streams count as real time
_LATEST_SECONDS = 3.0  # time for which high latency stops admission; with a shorter one, admission would oscillate
_GATHERED_SHARE = 0.75  # of the latency limit that a wait for other streams may use, together with the step after it
_FASTER = 1.25  # times real time: above it recordings are sent, whose next audio waits for the step
_UNUSUAL = 2.0  # times the cost of the median second: a second above it is not representative
MAX_USE = 0.92  # share of the engine's time that streams may need: above it, there is no rest in which to gather them


class Turn(NamedTuple):
    """Measurements of one step of all streams."""

    at: float  # when it ended, on a monotonic clock
    compute_seconds: float
    audio_seconds: float  # of all streams together
    latencies: tuple[float, ...]  # of each stream, in seconds from the arrival of its audio to the end of the step
    streams: int  # open streams


@dataclass(frozen=True)
class Load:
    """Measurements of the last `WINDOW_SECONDS`, as a value: each step returns the next one.

    A slow moment must not stop admission for longer than it takes to catch up: its latencies count for
    `_LATEST_SECONDS`, and it is excluded from the measured cost of streams.
    """

    turns: tuple[Turn, ...] = ()

    def heard(self, turn: Turn) -> Load:
        """The measurements with a step added."""
        return Load((*self._recent(turn.at), turn))

    def has_room(self, now: float, opened: Collection[float], max_latency_seconds: float, max_use: float) -> bool:
        """Whether the open streams still keep up with one more stream.

        Each measurement was taken at some number of open streams, and is scaled to one more than are open now. So ended
        streams no longer count, and new ones count in full. A stream that has been open for longer than the window and
        has sent nothing is idle, and not part of a burst.

        Args:
            now: the time, on the clock of the turns.
            opened: the opening times of the open streams, on the same clock.
            max_latency_seconds: limit on their latency, which catches overload from any cause.
            max_use: limit on `use`, which gives an earlier warning if latency stays low until it grows without bound.
        """
        if not (streams := len(opened)):
            return True  # no other stream can be delayed, however slow the machine
        known = _mean_streams(self._recent(now))
        young = sum(at >= now - WINDOW_SECONDS for at in opened)
        if min(streams - known, young) >= max(BURST, known):
            return False
        return self.latency_seconds(now, streams + 1) <= max_latency_seconds and self.use(now, streams + 1) <= max_use

    def latency_seconds(self, now: float, streams: int) -> float:
        """The 95th percentile of the latencies, scaled to `streams`; 0 without any.

        The higher of two percentiles: over the last seconds, and over the second at the window's lower quartile. So a
        slow moment is soon forgotten, and a fast one does not count.
        """
        turns = self._recent(now)
        latest = _late([turn for turn in turns if turn.at >= now - _LATEST_SECONDS], streams)
        seconds = sorted(_late(some, streams) for some in _seconds(turns, now))
        return max(latest, seconds[len(seconds) // 4]) if seconds else 0.0

    def use(self, now: float, streams: int) -> float:
        """The share of the engine's time that `streams` need at the current arrival rate of their audio."""
        turns = self._recent(now)
        if not (audio := sum(turn.audio_seconds for turn in turns)):
            return 0.0
        known, span = _mean_streams(turns), now - turns[0].at
        # Seconds of audio per second: too low over a short span, since the next chunk of some streams has not arrived
        # yet.
        rate = known if span < _RATE_SECONDS else min(known, audio / span)
        return _mean_cost(_usual(turns, now)) * rate * streams / known

    def beat_seconds(self, now: float, chunk_seconds: float, max_latency_seconds: float) -> float:
        """The shortest time from the beginning of one step to that of the next; 0: step as soon as there is audio.

        A step has a fixed cost, so streams that wait for each other cost less. Their chunks begin where someone begins
        to speak, so they cannot begin together. The beat depends on the time that each chunk would take in a step of
        its own, not on the time that the engine rests, which the beat itself changes: so it does not oscillate. With
        little load there is no rest beyond the step itself, and with much, steps follow each other without a rest.

        Args:
            now: the time, on the clock of the turns.
            chunk_seconds: audio that the encoder takes at a time.
            max_latency_seconds: limit on the latency of the streams.
        """
        turns = [turn for turn in self._recent(now) if turn.at >= now - _LATEST_SECONDS]
        if not any(turn.compute_seconds for turn in turns):
            return 0.0
        rate = sum(turn.audio_seconds for turn in turns) / max(1.0, now - turns[0].at)
        streams = _mean_streams(turns)
        if streams < 2 or rate > _FASTER * streams:
            return 0.0
        # The duration of a step, weighted by itself: steps that only detect speech are short.
        step = sum(turn.compute_seconds**2 for turn in turns) / sum(turn.compute_seconds for turn in turns)
        use_alone = rate * step / chunk_seconds
        longest = _GATHERED_SHARE * min(chunk_seconds, max_latency_seconds) - step
        return max(0.0, min(2 * step * min(1.0, 2 * use_alone), longest))

    def real_time_factor(self, now: float) -> float:
        """Seconds of computing per second of audio."""
        turns = self._recent(now)
        return _mean_cost(turns) if any(turn.audio_seconds for turn in turns) else 0.0

    def _recent(self, now: float) -> tuple[Turn, ...]:
        turns, since = self.turns, now - WINDOW_SECONDS
        return turns if not turns or turns[0].at >= since else tuple(turn for turn in turns if turn.at >= since)


def _seconds(turns: Sequence[Turn], now: float) -> list[list[Turn]]:
    """The turns grouped by second, without empty seconds."""
    found: dict[int, list[Turn]] = defaultdict(list)
    for turn in turns:
        found[int(now - turn.at)].append(turn)
    return list(found.values())


def _usual(turns: Sequence[Turn], now: float) -> list[Turn]:
    """The turns of all seconds except those that cost much more than the median one."""
    seconds = [some for some in _seconds(turns, now) if any(turn.audio_seconds for turn in some)]
    bound = _UNUSUAL * median(map(_mean_cost, seconds))
    return [turn for some in seconds if _mean_cost(some) <= bound for turn in some]


def _late(turns: Sequence[Turn], streams: int) -> float:
    """The 95th percentile of the latencies in these turns, scaled to `streams`; 0 if there are none."""
    latencies = sorted(_scaled(latency, turn, streams) for turn in turns for latency in turn.latencies)
    return latencies[math.ceil(0.95 * len(latencies)) - 1] if latencies else 0.0


def _scaled(latency: float, turn: Turn, streams: int) -> float:
    """A latency in a turn, scaled to `streams`.

    More streams lengthen the step, and the previous one, for which their audio may have waited. They do not lengthen
    the rest in which the engine gathers audio.
    """
    if streams <= turn.streams:
        return latency * streams / turn.streams
    return latency + (streams / turn.streams - 1) * min(latency, 2 * turn.compute_seconds)


def _mean_streams(turns: Sequence[Turn]) -> float:
    return sum(turn.streams for turn in turns) / len(turns) if turns else 0.0


def _mean_cost(turns: Sequence[Turn]) -> float:
    return sum(turn.compute_seconds for turn in turns) / sum(turn.audio_seconds for turn in turns)


def warm_up(engine: Engine) -> None:
    """Decode noise, so that the first client does not wait for the setup of buffers and kernels."""
    all_is_speech = replace(engine.config.endpoint, speech_threshold=1e-9, silence_threshold=1e-9)
    trial = Engine(engine.recogniser, replace(engine.config, endpoint=all_is_speech))
    noise = 0.1 * torch.randn(2 * engine.chunk_samples, generator=torch.Generator().manual_seed(0))
    trial.step([trial.start()], [noise], [True])
