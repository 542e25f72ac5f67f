"""Jobs: functions that use the model for an uploaded file, one at a time between two turns of the streams."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from asr.errors import SpellstreamError
from streaming.server.engine_thread import EngineThread
from streaming.server.metrics import Metrics

__all__ = ["Jobs"]

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Jobs:
    """A queue of functions for the engine's thread.

    Args:
        thread: runs them.
        trial: raises unless the engine works.
        metrics: count jobs and failures.
    """

    def __init__(self, thread: EngineThread, trial: Callable[[], None], metrics: Metrics) -> None:
        self._thread, self._trial, self._metrics = thread, trial, metrics
        self._queue: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self.failed_trials = 0  # in a row

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Queue a call; cancelling the future before its turn removes it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((future, lambda: function(*args)))
        self._metrics.jobs.set(len(self._queue))
        return future

    async def run_next(self) -> None:
        """Run the oldest job, if there is one."""
        if not self._queue:
            return
        future, function = self._queue.popleft()
        self._metrics.jobs.set(len(self._queue))
        if future.cancelled():
            return

        try:
            result = await self._thread.run(function)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            if not isinstance(error, SpellstreamError):
                self._metrics.failures.inc()
                await self._try_engine()
        else:
            self.failed_trials = 0
            if not future.done():
                future.set_result(result)

    def fail_all(self, error: SpellstreamError) -> None:
        """Answer all that wait with an error."""
        for future, _ in self._queue:
            if not future.done():
                future.set_exception(error)

    def cancel_all(self) -> None:
        for future, _ in self._queue:
            future.cancel()

    async def _try_engine(self) -> None:
        """Find out whether a job failed because of the engine or because of its file.

        A failed job alone does not count as a failure of the engine, or a client that sends a bad file again and again
        would end the server. Nor can this be left to the turns of streams: where all clients upload, there are none.
        """
        try:
            await self._thread.run(self._trial)
        except Exception:
            _LOG.exception("a file failed, and so did a trial of the engine after it")
            self.failed_trials += 1
        else:
            self.failed_trials = 0
