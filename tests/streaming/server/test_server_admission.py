"""Admission in a simulation: clients come and go; the number of streams neither swings nor overloads the server.

Discrete and seeded. A turn decodes all audio that has arrived since the turn before and takes a fixed time and a time
for each second of audio, with noise: a CPU core costs little per turn and much per stream, a GPU the other way round.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from streaming.server.load import MAX_USE, Load, Turn

CHUNK_SECONDS = 0.6
MAX_LATENCY = 0.5 * CHUNK_SECONDS


@dataclass(frozen=True)
class Machine:
    """Seconds of computing of a turn: fixed, and for each second of audio."""

    fixed: float
    per_audio_second: float


CPU = Machine(fixed=0.004, per_audio_second=0.06)
LEAN = Machine(fixed=0.004, per_audio_second=0.02)  # what the streams are to cost
GPU = Machine(fixed=0.08, per_audio_second=0.002)


@dataclass
class Door:
    """A server whose streams deliver a chunk of audio every `CHUNK_SECONDS`, each at its own phase."""

    machine: Machine
    random: random.Random
    now: float = 0.0
    load: Load = field(default_factory=Load)
    opened: dict[int, float] = field(default_factory=dict)  # stream → when
    due: dict[int, list[float]] = field(default_factory=dict)  # stream → arrivals of chunks not yet decoded
    next_chunk: dict[int, float] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # (when, seconds)
    count: int = 0

    def arrive(self) -> bool:
        """A client asks for a stream; whether it is admitted."""
        if not self.open:
            return False
        self.count += 1
        self.opened[self.count] = self.now
        self.due[self.count] = []
        self.next_chunk[self.count] = self.now + CHUNK_SECONDS * self.random.random()
        return True

    def leave(self, stream: int) -> None:
        for table in (self.opened, self.due, self.next_chunk):
            table.pop(stream)  # type: ignore[attr-defined]

    def turn(self, slowness: float = 1.0) -> None:
        """Decode the audio that has arrived; without any, wait for a moment."""
        for stream, at in self.next_chunk.items():
            while at <= self.now:
                self.due[stream].append(at)
                at += CHUNK_SECONDS
            self.next_chunk[stream] = at

        ready = {stream: arrivals for stream, arrivals in self.due.items() if arrivals}
        if not ready:
            self.now += 0.01
            return
        audio = CHUNK_SECONDS * sum(map(len, ready.values()))
        taken = self.machine.fixed + self.machine.per_audio_second * audio
        taken *= slowness * self.random.uniform(0.8, 1.3)
        self.now += taken
        late = tuple(self.now - arrivals[0] for arrivals in ready.values())
        self.latencies += [(self.now, seconds) for seconds in late]
        for arrivals in ready.values():
            arrivals.clear()
        self.load = self.load.heard(Turn(self.now, taken, audio, late, len(self.opened)))

    @property
    def open(self) -> bool:
        """Whether the next client would come in."""
        return self.load.has_room(self.now, self.opened.values(), MAX_LATENCY, MAX_USE)

    def hold(self, seconds: float, slowness: float = 1.0) -> None:
        """Nobody comes or leaves."""
        until = self.now + seconds
        while self.now < until:
            self.turn(slowness)

    def p95(self, begin: float, end: float) -> float:
        found = sorted(seconds for at, seconds in self.latencies if begin <= at < end)
        return found[int(0.95 * len(found))] if found else 0.0


def run(door: Door, until: float, clients_a_second: float, stay_seconds: float, slowness: float = 1.0) -> Iterator[int]:
    """Let clients come at random, stay for a random time, and leave; the number of open streams after each turn."""
    ends: dict[int, float] = {}
    next_client = door.now
    while door.now < until:
        while next_client <= door.now:
            if door.arrive():
                ends[door.count] = door.now + door.random.expovariate(1 / stay_seconds)
            next_client += door.random.expovariate(clients_a_second)
        for stream in [stream for stream, end in ends.items() if end <= door.now and stream in door.opened]:
            door.leave(stream)
        door.turn(slowness)
        yield len(door.opened)


@pytest.mark.parametrize(
    ("machine", "seed", "least", "most"),
    [(CPU, 0, 6, 14), (CPU, 1, 6, 14), (LEAN, 0, 32, 42), (GPU, 0, 80, 380)],
    ids=["cpu", "cpu again", "lean", "gpu"],
)
def test_a_crowd_fills_the_server_and_delays_nobody(machine: Machine, seed: int, least: int, most: int) -> None:
    """More clients than fit: the number of streams settles below the capacity, and words come in time."""
    door = Door(machine, random.Random(seed))
    list(run(door, 30, clients_a_second=10, stay_seconds=30))
    steady = list(run(door, 60, clients_a_second=10, stay_seconds=30))
    assert least <= statistics.mean(steady) <= most
    assert statistics.pstdev(steady) < 0.25 * statistics.mean(steady)  # it does not swing between empty and full
    assert door.p95(30, 60) < CHUNK_SECONDS


@pytest.mark.parametrize(("machine", "seed"), [(CPU, 0), (CPU, 1), (LEAN, 0), (LEAN, 1), (GPU, 0)])
def test_a_slow_moment_closes_the_door_until_it_has_been_caught_up_with(machine: Machine, seed: int) -> None:
    """A half-full server, where for a second and a half everything takes eight times as long.

    The door was shut for ten to fourteen seconds after that, until the last of those turns was out of the window; with
    another such moment every ten seconds, for ever.
    """
    door = Door(machine, random.Random(seed))
    full = list(run(door, 40, clients_a_second=5, stay_seconds=1000))[-1]
    for stream in list(door.opened)[: full // 2]:
        door.leave(stream)
    door.hold(12)
    assert door.open
    door.hold(1.5, slowness=8.0)
    slow_until = door.now
    while not door.open:
        door.turn()
    assert door.now - slow_until < 6
    assert door.p95(slow_until + 4, door.now) < MAX_LATENCY  # nobody was let in while those inside were late
    door.hold(10)
    assert door.open


def test_a_crowd_at_an_empty_server_does_not_overload_it() -> None:
    """A hundred clients in the first second, before much is measured: a few come in, then more as the load is known.

    The rate of audio was underestimated before each stream's second chunk: 17 came in where 15 are all that can be
    decoded in real time, and words came ever later.
    """
    door = Door(CPU, random.Random(0))
    for _ in range(100):
        door.arrive()
        door.turn()
    assert 4 <= len(door.opened) <= 14
    list(run(door, 30, clients_a_second=20, stay_seconds=1000))
    assert len(door.opened) <= 14
    assert door.p95(5, 30) < CHUNK_SECONDS
