"""Where an engine runs: a thread, or a process with a copy of it.

Threads that step streams wait for each other: much of a step is Python, and threads share its lock. Two threads step
hardly more streams than one; two processes step twice as many.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from asr.pools import prepare, sendable, submit
from streaming.engine import Engine
from streaming.server.config import ServerLimits
from streaming.server.engine_side import EngineSide

__all__ = ["ProcessRunner", "Runner", "ThreadRunner"]

T = TypeVar("T")
_CLOSE_SECONDS = 3.0  # time that `close` waits for the current call

_side: EngineSide  # of a process that `_begin` has prepared


class Runner(ABC):
    """Runs one method of an `EngineSide` at a time, and measures the time of the current call."""

    _executor: Executor
    _busy_since: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the current call has been running; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a method of `EngineSide`, given as `EngineSide.turn`, with these arguments.

        If the caller is cancelled, a call that has begun still runs to its end.
        """
        self._busy_since = time.monotonic()
        future = self._submit(function, *args)
        future.add_done_callback(self._ended)
        found: T = await asyncio.wrap_future(future)
        return found

    async def close(self) -> None:
        """Accept no more calls, and wait for the current one, but not for long, since it may hang."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + _CLOSE_SECONDS
        while self.busy_seconds and time.monotonic() < until:
            await asyncio.sleep(0.01)

    @abstractmethod
    def _submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]: ...

    def _ended(self, _: Future[Any]) -> None:
        self._busy_since = None


class ThreadRunner(Runner):
    """A thread.

    Args:
        engine: used by this thread only.
        limits: the server's limits.
    """

    def __init__(self, engine: Engine, limits: ServerLimits) -> None:
        self._side = EngineSide(engine, limits)
        self._executor = ThreadPoolExecutor(1, "spellstream-engine")

    def _submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._executor.submit(_guarded, function, self._side, *args)


class ProcessRunner(Runner):
    """A process. If it dies, the current call fails, and another process without any streams takes its place.

    Args:
        engine: copied by its settings: the process loads the model from its folder.
        limits: the server's limits.
    """

    def __init__(self, engine: Engine, limits: ServerLimits) -> None:
        self._settings = (engine, limits)
        self._executor = self._start()

    def _submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return submit(self._executor, _call, function, *args)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return await super().run(function, *args)
        except BrokenProcessPool:  # it died in this call, or since the last one
            self._busy_since = None
            self._executor = self._start()
            raise

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: the server's threads and locks do not survive that.
        return ProcessPoolExecutor(1, get_context("spawn"), _begin, self._settings)


def _begin(engine: Engine, limits: ServerLimits) -> None:
    global _side
    prepare()
    _side = EngineSide(engine, limits)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return _guarded(function, _side, *args)
    except Exception as error:
        raise sendable(error) from error


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except StopIteration as error:  # a future cannot hold it: the caller would wait forever
        raise RuntimeError("StopIteration") from error
