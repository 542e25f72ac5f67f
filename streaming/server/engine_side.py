"""The part of the service that runs beside the engine, in a thread or a process: sessions, resamplers, steps, jobs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from asr.audio import SAMPLE_RATE, Resampler
from asr.errors import SpellstreamError
from asr.steps import Steps
from streaming.engine import Engine
from streaming.events import Event
from streaming.pool import SessionPool
from streaming.server.config import ServerLimits
from streaming.server.load import warm_up
from streaming.server.stream import Order, Status

__all__ = ["EngineSide", "Slice", "Task", "Turned"]

_SLICE_SECONDS = 0.05  # after this time a job yields to the streams; a single step may take a few times as long


class Turned(NamedTuple):
    """The result of a turn."""

    statuses: Mapping[int, Status]  # by the stream's id
    busy: bool  # whether a turn without orders would do anything


class Task(NamedTuple):
    """A function of the recogniser and further arguments, which may return steps."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Slice(NamedTuple):
    """What came of a slice of a job: its result, once it is done."""

    done: bool
    result: Any = None


class _Open(NamedTuple):
    """A stream on this side."""

    session_id: int
    resampler: Resampler


class EngineSide:
    """The sessions of the streams. Calls must not overlap.

    Args:
        engine: steps the sessions.
        limits: the server's limits.
    """

    def __init__(self, engine: Engine, limits: ServerLimits) -> None:
        self._engine, self._limits = engine, limits
        self._jobs: dict[int, Steps[Any]] = {}  # under way
        self.reset()

    def reset(self) -> None:
        """Drop all streams."""
        limits, chunk_seconds = self._limits, self._engine.chunk_samples / SAMPLE_RATE
        # A client may send a chunk as one message: in two steps, it would take twice as long.
        step_seconds = min(limits.max_behind_seconds, max(0.32, chunk_seconds))
        self._pool = SessionPool(self._engine, limits.max_sessions, limits.max_behind_seconds, step_seconds)
        self._streams: dict[int, _Open] = {}

    def warm_up(self) -> None:
        """Raise an exception unless the engine works; the first call also makes the next ones faster."""
        warm_up(self._engine)

    def turn(self, orders: Sequence[Order], dropped: Sequence[int]) -> Turned:
        """Drop streams, carry out the orders, step all sessions, and return the status of each stream."""
        for stream in dropped:
            if found := self._streams.pop(stream, None):
                self._pool.close(found.session_id, discard=True)
        for order in orders:
            self._take(order)
        pool, streams = self._pool, self._streams
        waited = {
            s.session_id: (pool.behind_seconds(s.session_id), pool.dropped_seconds(s.session_id))
            for s in streams.values()
        }
        events: dict[int, list[Event]] = defaultdict(list)
        for session_id, event in pool.step():
            events[session_id].append(event)
        statuses = {}
        for stream, (session_id, _) in list(streams.items()):
            before, dropped_seconds = waited[session_id]
            done = session_id not in pool
            waiting = 0.0 if done else pool.behind_seconds(session_id)
            flushing = not done and pool.flushing(session_id)
            said = tuple(events[session_id])
            statuses[stream] = Status(said, waiting, before - waiting, dropped_seconds, flushing, done)
            if done:
                del streams[stream]
        return Turned(statuses, pool.busy)

    def work(self, job: int, task: Task | None) -> Slice:
        """Run the next slice of a job, for about `_SLICE_SECONDS`.

        Args:
            job: its id.
            task: with the first slice.

        Raises:
            SpellstreamError: the job began in a process that has died since.
        """
        until = time.monotonic() + _SLICE_SECONDS
        if task is not None:
            found = task.function(self._engine.recogniser, *task.args)
            if not isinstance(found, Generator):
                return Slice(True, found)
            self._jobs[job] = found
        if (steps := self._jobs.pop(job, None)) is None:
            raise SpellstreamError("the server lost this file's work: send the file again")
        try:
            next(steps)
            while time.monotonic() < until:
                next(steps)
        except StopIteration as end:
            return Slice(True, end.value)
        self._jobs[job] = steps
        return Slice(False)

    def cancel(self, job: int) -> None:
        """End a job that has begun here, or in a process that has died since."""
        if steps := self._jobs.pop(job, None):
            steps.close()

    def _take(self, order: Order) -> None:
        pool = self._pool
        if (opening := order.opening) is not None:
            session_id = pool.open(opening.hotwords, opening.style)
            self._streams[order.stream] = _Open(session_id, Resampler(opening.sample_rate, "stream"))
        session_id, resampler = self._streams[order.stream]
        for chunk in order.chunks:
            pool.push(session_id, resampler.step(torch.from_numpy(chunk)))
        if order.flush or order.finish:
            pool.push(session_id, resampler.flush())
        if order.finish:
            pool.close(session_id)
        elif order.flush:
            pool.flush(session_id)
