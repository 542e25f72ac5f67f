"""A thread that uses the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

__all__ = ["EngineThread"]

T = TypeVar("T")
_CLOSE_SECONDS = 3.0  # time that `close` waits for the current call


class EngineThread:
    """Runs one function at a time, and measures how long the current one has been running.

    Args:
        torch_threads: PyTorch's threads within it; None: as PyTorch is set.
    """

    def __init__(self, torch_threads: int | None = None) -> None:
        begin = None if torch_threads is None else partial(torch.set_num_threads, torch_threads)
        self._executor = ThreadPoolExecutor(1, "spellstream-engine", begin)
        self._busy_since: float | None = None  # set by the thread itself

    @property
    def busy_seconds(self) -> float:
        """How long the current call has been running; 0 when the thread is idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(*args)` in the thread."""

        def timed() -> T:
            self._busy_since = time.monotonic()
            try:
                return function(*args)
            except StopIteration as error:  # a future cannot hold it: the caller would wait forever
                raise RuntimeError("StopIteration") from error
            finally:
                self._busy_since = None

        return await asyncio.get_running_loop().run_in_executor(self._executor, timed)

    async def close(self) -> None:
        """Accept no more calls, and wait for the current one, but not for long, since it may hang."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + _CLOSE_SECONDS
        while self.busy_seconds and time.monotonic() < until:
            await asyncio.sleep(0.01)
