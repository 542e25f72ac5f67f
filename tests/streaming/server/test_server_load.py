"""Admission of streams: a pure function of measurements of the engine's latest steps."""

from __future__ import annotations

import math
import random

import pytest

from streaming.server.load import BURST, MAX_USE, WINDOW_SECONDS, Load, Turn

CHUNK_SECONDS = 0.6
BOUND = CHUNK_SECONDS / 2


def measured(streams: int, turns: int, latency: float = 0.01, compute: float = 0.001, audio: float = 0.1) -> Load:
    """Equal turns in the five seconds up to time 0."""
    load = Load()
    for n in range(turns):
        load = load.heard(Turn(5 * (n / turns - 1), compute, audio, (latency,), streams))
    return load


def room(load: Load, streams: int, now: float = 0.0) -> bool:
    """Whether there is room beside `streams` streams opened at `now`."""
    return load.has_room(now, [now] * streams, BOUND, MAX_USE)


def test_streams_that_come_together_are_let_in_a_few_at_a_time() -> None:
    """A few are admitted while their cost is unknown; then as many as have been measured."""
    assert [room(Load(), streams) for streams in (0, BURST - 1, BURST)] == [True, True, False]
    assert [room(measured(20, 50), streams) for streams in (20, 39, 40)] == [True, True, False]


def test_streams_that_are_silent_keep_nobody_out() -> None:
    """Silent streams, unmeasured in the window, counted as new, and an idle server refused streams."""
    load, now = measured(50, 50), WINDOW_SECONDS + 1
    idle = [-1.0] * 50
    assert load.has_room(now, idle, BOUND, MAX_USE)
    assert [load.has_room(now, idle + [now] * new, BOUND, MAX_USE) for new in (BURST - 1, BURST)] == [True, False]


def test_many_short_streams_are_let_in_one_after_the_other() -> None:
    """Ended streams counted as unmeasured, so the next ones were refused without any load."""
    load, now = Load(), 0.0
    for _ in range(200):  # each stream is open for four turns
        now += 0.05
        load = load.heard(Turn(now, 0.002, 0.2, (0.003,) * 4, 4))
        assert room(load, 4, now)


def test_late_streams_close_the_door_until_enough_of_them_have_gone() -> None:
    """Admission resumes at once, not only when the old measurements have left the window."""
    load = measured(20, 50, latency=0.4)
    assert [room(load, streams) for streams in (20, 15, 14, 10)] == [False, False, True, True]
    assert room(load, 0)  # no stream to delay: the only client of a slow machine was refused its next stream
    assert room(load, 3, WINDOW_SECONDS + 0.1)


def test_the_door_closes_before_latency_tells_where_each_stream_takes_its_share() -> None:
    """Seven streams each take an eighth of the time: they keep up, and an eighth stream would take the rest."""
    load = measured(7, 50, latency=0.1, compute=0.0875, audio=0.7)
    assert load.use(0.0, 7) == pytest.approx(0.875)
    assert not room(load, 7)
    assert room(load, 6)


@pytest.mark.parametrize(
    ("streams", "step", "rate", "expected"),
    [
        (1, 0.06, 1.0, 0.0),  # nobody to wait for
        (2, 0.04, 2.0, 0.032),  # less than a step takes: no rest
        (8, 0.08, 8.0, 0.16),  # a rest as long as the step
        (8, 0.2, 8.0, 0.07),  # as late as the latency allows: no rest
        (8, 0.08, 20.0, 0.0),  # recordings, whose clients wait for the step
    ],
)
def test_the_engine_rests_to_gather_streams(streams: int, step: float, rate: float, expected: float) -> None:
    load = Load()
    for n in range(10):
        load = load.heard(Turn(n / 5, step, rate / 5, (step,) * streams, streams))
    assert load.beat_seconds(2.0, 0.4, 0.36) == pytest.approx(expected)


def test_steps_that_only_detect_speech_do_not_shorten_the_rest() -> None:
    load = Load()
    for n in range(40):
        load = load.heard(Turn(n / 20, 0.08 if n % 4 == 0 else 0.001, 0.4, (0.1,), 8))
    assert load.beat_seconds(2.0, 0.4, 0.36) == pytest.approx(0.154, abs=0.002)
    assert Load().beat_seconds(2.0, 0.4, 0.36) == load.beat_seconds(9.0, 0.4, 0.36) == 0.0


def test_who_sends_faster_than_real_time_does_not_keep_others_out() -> None:
    """Recordings sent faster than real time take only the time that other streams leave."""
    load = measured(1, 50, latency=0.1, compute=0.1, audio=1.0)
    assert load.use(0.0, 2) == pytest.approx(0.2)
    assert room(load, 1)


def test_the_latency_that_counts_is_that_of_the_last_seconds() -> None:
    load = Load()
    load = load.heard(Turn(0.0, 0.1, 0.2, tuple(i / 100 for i in range(100)), 1))
    assert load.latency_seconds(1.0, 1) == pytest.approx(0.94)
    assert load.real_time_factor(1.0) == pytest.approx(0.5)
    assert load.latency_seconds(WINDOW_SECONDS + 0.1, 1) == load.use(WINDOW_SECONDS + 0.1, 1) == 0.0


@pytest.mark.parametrize(("turn_seconds", "chunk_cost"), [(0.002, 0.015), (0.05, 0.015)], ids=["shares", "batches"])
def test_whoever_is_let_in_stays_in_time_however_many_knock(turn_seconds: float, chunk_cost: float) -> None:
    """With speech in four of five streams and two requests per second, fast moments admitted too many streams.

    After half of the streams have ended, admission resumes in less than a second.
    """
    generator, load = random.Random(1), Load()
    now, knocked, turned, due = 0.0, 0.0, 0.0, list[float]()
    late: list[tuple[float, float]] = []
    admitted: list[float] = []
    left = 0.0
    while now < 50:
        for _ in range(int((now - knocked) / 0.5)):
            knocked += 0.5
            if room(load, len(due), knocked):
                due.append(knocked)
                admitted.append(knocked)
        if now > 48 and not left:
            most, left, due = len(due), now, due[::2]
        ready = [i for i, at in enumerate(due) if at <= now]
        if not ready:
            now = min([knocked + 0.5, *due])
            continue
        if now < (beat := turned + load.beat_seconds(now, CHUNK_SECONDS, BOUND)):
            now = beat
            continue
        turned = now
        began = [due[i] for i in ready]
        spoken = sum(generator.uniform(0.8, 1.2) if generator.random() < 0.8 else 0.1 for _ in ready)
        compute = turn_seconds + chunk_cost * spoken
        now += compute
        for i in ready:
            due[i] += CHUNK_SECONDS
        load = load.heard(Turn(now, compute, CHUNK_SECONDS * len(ready), tuple(now - at for at in began), len(due)))
        late += [(at, now - at) for at in began]
    held = sorted(latency for at, latency in late if 30 < at < left)
    assert held[math.ceil(0.95 * len(held)) - 1] < CHUNK_SECONDS
    assert most > 0.45 * CHUNK_SECONDS / (0.82 * chunk_cost)
    assert min(at for at in admitted if at > left) < left + 1
