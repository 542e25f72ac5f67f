"""Jobs: the model's work on uploaded files, one slice at a time between two turns of the streams."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from asr.errors import SpellstreamError
from streaming.server.engine_side import EngineSide, Task
from streaming.server.metrics import Metrics
from streaming.server.runners import Runner

__all__ = ["Jobs"]

_LOG = logging.getLogger(__name__)
_IDS = itertools.count(1)


@dataclass(eq=False)
class _Job:
    future: asyncio.Future[Any]
    task: Task
    place: Runner | None = None  # where it began, and continues
    id: int = field(default_factory=lambda: next(_IDS))


class Jobs:
    """A queue of functions, and of work in steps, for the workers.

    Work in steps runs in slices. After each slice the job queues behind the others, so a short file need not wait for a
    long one.

    Args:
        wake: called when there is a job to run.
        metrics: count jobs and failures.
    """

    def __init__(self, wake: Callable[[], None], metrics: Metrics) -> None:
        self._wake, self._metrics = wake, metrics
        self._queue: deque[_Job] = deque()
        self.failed_trials = 0  # in a row

    def has_for(self, runner: Runner) -> bool:
        """Whether there is a job that can run there."""
        return self._next(runner) is not None

    def submit(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Queue a call `function(recogniser, *args)`; if it returns steps, the future gets their result.

        Cancelling the future before its turn removes it, and ends the steps. With several workers, function, arguments
        and result are sent between processes.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Job(future, Task(function, args)))
        return future

    def _put(self, job: _Job) -> None:
        self._queue.append(job)
        self._metrics.jobs.set(len(self._queue))
        self._wake()

    def _next(self, runner: Runner) -> _Job | None:
        return next((job for job in self._queue if job.place in (None, runner)), None)

    async def run_next(self, runner: Runner) -> None:
        """Run the longest-waiting job that can run there, or a slice of it, if there is one."""
        if (job := self._next(runner)) is None:
            return
        self._queue.remove(job)
        self._metrics.jobs.set(len(self._queue))
        begun, future = job.place is not None, job.future
        if future.done():
            if begun:
                with suppress(BrokenExecutor):  # ended with its process
                    await runner.run(EngineSide.cancel, job.id)
            return

        job.place = runner
        try:
            done, result = await runner.run(EngineSide.work, job.id, None if begun else job.task)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            if not isinstance(error, SpellstreamError):
                self._metrics.failures.inc()
                await self._try_engine(runner)
        else:
            self.failed_trials = 0
            if not done:
                self._put(job)
            elif not future.done():
                future.set_result(result)

    def fail_all(self, error: SpellstreamError) -> None:
        """Answer all waiting jobs with an error."""
        for job in self._queue:
            if not job.future.done():
                job.future.set_exception(error)

    def cancel_all(self) -> None:
        for job in self._queue:
            job.future.cancel()

    async def _try_engine(self, runner: Runner) -> None:
        """Determine whether a job failed because of the engine or because of its file.

        A failed job alone does not count as a failure of the engine; otherwise a client could end the server by sending
        a bad file repeatedly. The turns of streams cannot decide it, since a server with uploads only has none.
        """
        try:
            await runner.run(EngineSide.warm_up)
        except Exception:
            _LOG.exception("a file failed, and so did a trial of the engine after it")
            self.failed_trials += 1
        else:
            self.failed_trials = 0
