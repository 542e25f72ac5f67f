"""Admission and back-pressure: sessions come and go, and a slow one is notified of its losses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from asr.errors import AudioError, ConfigError, SpellstreamError
from asr.transcript import Segment
from streaming.engine import Engine
from streaming.events import Event, Final
from streaming.pool import PoolFullError, SessionPool


@dataclass(frozen=True)
class Heard:
    """A stub session that records its samples and gaps."""

    samples: tuple[float, ...] = ()
    skipped: tuple[tuple[int, int], ...] = ()  # samples before a gap, samples missing in it

    def skip(self, samples: int) -> Heard:
        return replace(self, skipped=(*self.skipped, (len(self.samples), samples)))


class Recorder:
    """A stub engine: the end of a stream yields the number of samples heard."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def start(self, hotwords: object = None, style: object = None) -> Heard:
        return Heard()

    def step(
        self, sessions: Sequence[Heard], chunks: Sequence[Tensor], final: Sequence[bool]
    ) -> tuple[list[Heard], list[list[Event]]]:
        self.batches.append([len(c) for c in chunks])
        now = [replace(s, samples=(*s.samples, *c.tolist())) for s, c in zip(sessions, chunks, strict=True)]
        said = [Final(Segment(str(len(s.samples)), 0.0, 0.0, 0.0), 0.0) for s in now]
        return now, [[event] if end else [] for event, end in zip(said, final, strict=True)]


def pool(max_sessions: int = 2, max_behind: int = 10, step: int = 4) -> tuple[SessionPool, Recorder]:
    """Bounds in samples."""
    engine = Recorder()
    return SessionPool(cast(Engine, engine), max_sessions, max_behind / 16_000, step / 16_000), engine


def samples(first: int, after: int) -> Tensor:
    return torch.arange(first, after, dtype=torch.float32)


def heard(made: SessionPool, session_id: int) -> Any:
    return made._streams[session_id].session


def texts(events: list[tuple[int, Event]]) -> list[tuple[int, str]]:
    return [(session_id, event.text) for session_id, event in events]


def test_no_more_are_let_in_than_there_is_room_for() -> None:
    made, _ = pool()
    first, second = made.open(), made.open()
    with pytest.raises(PoolFullError, match="2 sessions are open: the maximum is 2"):
        made.open()
    made.close(first)
    with pytest.raises(PoolFullError):
        made.open()  # not finished yet
    assert texts(made.step()) == [(first, "0")]
    assert len(made) == 1
    assert made.open() not in (first, second)


def test_a_step_takes_a_bounded_share_of_all_that_have_audio() -> None:
    made, engine = pool(3)
    a, b, _ = made.open(), made.open(), made.open()
    made.push(a, samples(0, 6))
    made.push(b, samples(0, 3))
    assert made.busy
    made.step()
    made.step()
    assert not made.busy
    made.step()
    assert engine.batches == [[4, 3], [2]]
    assert heard(made, a).samples == tuple(range(6))


def test_what_is_too_late_is_dropped_oldest_first_and_counted() -> None:
    made, _ = pool()
    a, b = made.open(), made.open()
    assert made.push(a, samples(0, 4)) == 0
    made.step()
    assert made.push(a, samples(4, 12)) == 0
    assert made.push(a, samples(12, 17)) == 3
    assert made.push(b, samples(0, 25)) == 15
    assert made.behind_seconds(a) == made.behind_seconds(b) == 10 / 16_000
    assert (made.dropped_seconds(a), made.dropped_seconds(b)) == (3 / 16_000, 15 / 16_000)
    assert texts(made.step()) == [(a, "4"), (b, "0")]  # the open segment ends at the gap
    while made.busy:
        made.step()
    assert heard(made, a).samples == (*range(4), *range(7, 17))
    assert heard(made, a).skipped == ((4, 3),)
    assert (heard(made, b).samples, heard(made, b).skipped) == (tuple(range(15, 25)), ((0, 15),))


def test_what_waits_when_a_session_is_closed_is_still_heard() -> None:
    made, _ = pool()
    a = made.open()
    made.push(a, samples(0, 10))
    made.close(a)
    with pytest.raises(SpellstreamError, match=f"session {a} is closing"):
        made.push(a, samples(10, 11))
    assert [texts(made.step()) for _ in range(3)] == [[], [], [(a, "10")]]
    assert a not in made
    for use in (made.close, made.flush, made.behind_seconds, made.dropped_seconds):
        with pytest.raises(SpellstreamError, match=f"session {a}: no such session"):
            use(a)


def test_what_is_open_can_be_finished_without_an_end_of_the_stream() -> None:
    made, _ = pool()
    a = made.open()
    made.push(a, samples(0, 6))
    made.flush(a)
    assert [texts(made.step()) for _ in range(2)] == [[], [(a, "6")]]
    assert not made.busy
    made.push(a, samples(6, 8))
    made.close(a)
    assert texts(made.step()) == [(a, "8")]


def test_one_that_nobody_waits_for_goes_at_once() -> None:
    made, engine = pool()
    a = made.open()
    made.push(a, samples(0, 10))
    made.close(a, discard=True)
    assert len(made) == 0
    assert made.step() == []
    assert engine.batches == []


def test_odd_audio_is_refused_and_the_session_goes_on() -> None:
    made, _ = pool()
    a = made.open()
    with pytest.raises(AudioError, match=f"session {a}: .*NaN"):
        made.push(a, torch.tensor([torch.nan]))
    buffer = samples(0, 4)
    made.push(a, buffer)
    buffer.fill_(9)
    made.push(a, samples(4, 4))
    made.step()
    assert heard(made, a).samples == (0, 1, 2, 3)


def test_the_bounds_are_checked() -> None:
    for arguments in ((0, 1.0, 0.32), (1, 0.1, 0.32), (1, 1.0, 0.0)):
        with pytest.raises(ConfigError):
            SessionPool(cast(Engine, Recorder()), *arguments)


def test_every_sample_is_heard_or_counted_as_dropped() -> None:
    made, _ = pool(5)
    generator = random.Random(0)
    sent: dict[int, int] = {}
    for _ in range(2_000):
        action = generator.randrange(8)
        if action == 0 and len(made) < 5:
            sent[made.open()] = 0
        elif action == 1:
            made.step()
        elif sent:
            session_id = generator.choice(list(sent))
            if action == 2 and generator.random() < 0.1:
                made.close(session_id, discard=True)
                del sent[session_id]
            else:
                count = generator.randrange(15)
                made.push(session_id, samples(sent[session_id], sent[session_id] + count))
                sent[session_id] += count
                assert made.behind_seconds(session_id) <= 10 / 16_000
    while made.busy:
        made.step()
    assert sent
    for session_id, count in sent.items():
        got, missing = heard(made, session_id).samples, dict(heard(made, session_id).skipped)
        expected, at = [], 0
        for n in range(len(got)):
            at += missing.pop(n, 0)
            expected.append(at + n)
        assert got == tuple(expected)
        assert len(got) + round(made.dropped_seconds(session_id) * 16_000) == count
