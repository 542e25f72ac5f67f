"""Jobs: the model's work on uploaded files, one slice at a time between two turns of the streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from asr.errors import SpellstreamError
from asr.steps import Steps
from streaming.server.engine_thread import EngineThread
from streaming.server.metrics import Metrics

__all__ = ["Jobs"]

_SLICE_SECONDS = 0.05  # after this time a job yields to the streams; a single step may take a few times as long
_UNFINISHED = object()
_LOG = logging.getLogger(__name__)


class Jobs:
    """A queue of functions, and of work in steps, for the engine's threads.

    Work in steps runs in slices. After each slice the job queues behind the others, so a short file need not wait for a
    long one, and the next slice runs in whichever thread is free.

    Args:
        wake: called when there is a job to run.
        metrics: count jobs and failures.
    """

    def __init__(self, wake: Callable[[], None], metrics: Metrics) -> None:
        self._wake, self._metrics = wake, metrics
        self._queue: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self.failed_trials = 0  # in a row

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Queue a call; if it returns steps, the future gets their result.

        Cancelling the future before its turn removes it, and ends the steps.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(future, _sliced(function, *args))
        return future

    def _put(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        self._queue.append((future, work))
        self._metrics.jobs.set(len(self._queue))
        self._wake()

    async def run_next(self, thread: EngineThread, trial: Callable[[], None]) -> None:
        """Run the longest-waiting job, or a slice of it, if there is one.

        Args:
            thread: runs it.
            trial: raises an exception unless the engine works.
        """
        if not self._queue:
            return
        future, function = self._queue.popleft()
        self._metrics.jobs.set(len(self._queue))
        if future.done():
            return

        try:
            result = await thread.run(function)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            if not isinstance(error, SpellstreamError):
                self._metrics.failures.inc()
                await self._try_engine(thread, trial)
        else:
            self.failed_trials = 0
            if result is _UNFINISHED:
                self._put(future, function)
            elif not future.done():
                future.set_result(result)

    def fail_all(self, error: SpellstreamError) -> None:
        """Answer all waiting jobs with an error."""
        for future, _ in self._queue:
            if not future.done():
                future.set_exception(error)

    def cancel_all(self) -> None:
        for future, _ in self._queue:
            future.cancel()

    async def _try_engine(self, thread: EngineThread, trial: Callable[[], None]) -> None:
        """Determine whether a job failed because of the engine or because of its file.

        A failed job alone does not count as a failure of the engine; otherwise a client could end the server by sending
        a bad file repeatedly. The turns of streams cannot decide it, since a server with uploads only has none.
        """
        try:
            await thread.run(trial)
        except Exception:
            _LOG.exception("a file failed, and so did a trial of the engine after it")
            self.failed_trials += 1
        else:
            self.failed_trials = 0


def _sliced(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A function that runs the next slice of the work, and returns the result or `_UNFINISHED`."""
    steps: Steps[Any] | None = None

    def work() -> Any:
        nonlocal steps
        until = time.monotonic() + _SLICE_SECONDS
        if steps is None:
            found = function(*args)
            if not isinstance(found, Generator):
                return found
            steps = found
        try:
            next(steps)
            while time.monotonic() < until:
                next(steps)
        except StopIteration as end:
            return end.value
        return _UNFINISHED

    return work
