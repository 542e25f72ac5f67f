"""The worker: turns in which all its streams are stepped as one batch, and jobs between them.

The engine's side runs one turn at a time, in a thread or in a process: it takes the audio that the streams have
received since the last turn, steps them all, and returns their events. Between two turns it rests for a while if there
are several streams, so that more of them share a step (`Load.beat_seconds`). Everything else happens in the event loop,
so there are no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from asr.audio import SAMPLE_RATE
from asr.errors import SpellstreamError
from streaming.engine import Engine
from streaming.events import Final
from streaming.server.config import ServerLimits
from streaming.server.engine_side import EngineSide
from streaming.server.errors import engine_failed
from streaming.server.jobs import Jobs
from streaming.server.load import Load, Turn
from streaming.server.metrics import Metrics
from streaming.server.runners import ProcessRunner, Runner, ThreadRunner
from streaming.server.stream import Status, Stream

__all__ = ["Worker"]

_MAX_FAULTS = 3  # failed turns or trials in a row before the engine counts as broken
_MAX_TURN_SECONDS = 60.0  # a longer call counts as hanging
_LOG = logging.getLogger(__name__)


class Worker:
    """Steps streams and runs jobs until it is stopped or the engine fails for good.

    Args:
        engine: used by workers only.
        limits: the server's limits.
        metrics: the server's metrics.
        jobs: shared by all workers.
        apart: use a copy of the engine in a process, with one PyTorch thread; otherwise the engine itself in a thread.

    Attributes:
        streams: its open streams with their opening times, maintained by the service.
    """

    def __init__(self, engine: Engine, limits: ServerLimits, metrics: Metrics, jobs: Jobs, apart: bool = False) -> None:
        self.load = Load()
        self.streams: dict[Stream, float] = {}
        self._limits, self._metrics, self._jobs = limits, metrics, jobs
        self._runner: Runner = (ProcessRunner if apart else ThreadRunner)(engine, limits)
        self._side_busy = False  # a turn without orders would do something
        self._chunk_seconds = engine.chunk_samples / SAMPLE_RATE
        self._dropped: list[int] = []  # ids of unfinished streams that are no longer read by anyone
        self._wake = asyncio.Event()
        self._turn_started = 0.0
        self._failed_turns = 0  # in a row
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        return self._task is not None

    @property
    def running(self) -> bool:
        """Whether it takes turns and jobs."""
        return self._task is not None and not self._task.done()

    @property
    def healthy(self) -> bool:
        """Whether streams are being stepped; if not, only a restart of the process helps."""
        faults = max(self._failed_turns, self._jobs.failed_trials)
        return self.running and faults < _MAX_FAULTS and self.busy_seconds <= _MAX_TURN_SECONDS

    @property
    def busy_seconds(self) -> float:
        """How long the current call has been running; 0 when the worker is idle."""
        return self._runner.busy_seconds

    async def start(self) -> None:
        """Warm the engine up, then start the turns."""
        await self._runner.run(EngineSide.warm_up)
        self._task = asyncio.create_task(self._work(), name="spellstream-worker")

    async def stop(self) -> None:
        """End the turns. The current call continues."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def close(self) -> None:
        """After `stop`: wait for the current call, but not for long, since it may hang."""
        await self._runner.close()

    def wake(self) -> None:
        """Signal that a stream has work for the engine."""
        self._wake.set()

    def drop(self, stream: Stream) -> None:
        """Drop an unfinished stream, with its unprocessed audio."""
        self._dropped.append(stream.id)
        self._wake.set()

    async def _work(self) -> None:
        try:
            while self.healthy:
                await self._wake.wait()
                self._wake.clear()
                if (rest := self._rest_seconds()) and not self._jobs.has_for(self._runner):
                    await asyncio.sleep(rest)
                    rest = 0.0
                if rest or await self._turn():  # with a rest left, a job uses it
                    self._wake.set()  # there may be more work: check again, after other tasks had the event loop
                if self.healthy:
                    await self._jobs.run_next(self._runner)
                    if self._jobs.has_for(self._runner):
                        self._wake.set()
        except Exception:
            _LOG.exception("a fault outside of a step: %d streams are dropped", len(self.streams))
            self._metrics.failures.inc()

        for stream in self.streams:
            stream.fail(SpellstreamError("the server has failed"))
        self._jobs.fail_all(engine_failed())

    def _rest_seconds(self) -> float:
        """How long the next turn should wait for audio of more streams; not at all if audio is left from the last."""
        if self._side_busy:
            return 0.0
        now = time.monotonic()
        beat = self.load.beat_seconds(now, self._chunk_seconds, self._limits.load_share * self._chunk_seconds)
        return max(0.0, self._turn_started + beat - now)

    async def _turn(self) -> bool:
        """Step the streams once; return whether there was any work."""
        orders = [order for stream in self.streams if (order := stream.order())]
        dropped, self._dropped = self._dropped, []
        if not (orders or dropped or self._side_busy):
            return False

        before, self._turn_started = self._turn_started, time.monotonic()
        try:
            found, self._side_busy = await self._runner.run(EngineSide.turn, orders, dropped)
        except Exception:
            await self._start_afresh()
            return True
        statuses = {stream: found[stream.id] for stream in self.streams if stream.id in found}
        if any(status.heard_seconds for status in statuses.values()):  # otherwise the engine may have been idle
            self._failed_turns = 0

        self._measure(statuses, {order.stream: order.arrived or before for order in orders}, before)
        for stream, status in statuses.items():
            stream.turned(status)
            if stream.error is not None and not stream.done:
                self._dropped.append(stream.id)
        return True

    def _measure(self, statuses: Mapping[Stream, Status], arrived: Mapping[int, float], before: float) -> None:
        """Record each stream's latency, except for audio that was already waiting in the previous turn."""
        now, heard = time.monotonic(), {stream: s for stream, s in statuses.items() if s.heard_seconds}
        latencies = tuple(now - arrived.get(stream.id, before) for stream in heard)
        taken, audio = now - self._turn_started, sum(status.heard_seconds for status in heard.values())
        self.load = self.load.heard(Turn(now, taken, audio, latencies, max(1, len(heard), len(self.streams))))

        self._metrics.step.observe(taken)
        for latency in latencies:
            self._metrics.latency.observe(latency)
        self._metrics.audio_seconds.inc(audio)
        self._metrics.compute_seconds.inc(taken)
        for stream, status in statuses.items():
            self._metrics.dropped_seconds.inc(status.dropped_seconds - stream.dropped_seconds)
            self._metrics.finals.inc(sum(isinstance(event, Final) for event in status.events))

    async def _start_afresh(self) -> None:
        """Drop all streams after a failed turn: none of their states can be trusted."""
        _LOG.exception("a step failed: %d streams are dropped", len(self.streams))
        self._metrics.failures.inc()
        self._failed_turns += 1
        for stream in self.streams:
            stream.fail(SpellstreamError("the server failed to continue this stream"))
        self._side_busy = False
        await self._runner.run(EngineSide.reset)
