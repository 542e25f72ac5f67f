"""Threads that decode batches side by side, each with one thread of PyTorch.

PyTorch's own threads share each operation and wait for one another at its end. The operations of a search are short, so
two threads are no faster than one, and on a busy machine, where one of them may not be running, far slower. Python's
lock hardly matters: PyTorch gives it up within its operations (two threads waited for it for 2 % of their time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import TypeVar

import torch

from asr.steps import Steps, finish

__all__ = ["Workers"]

Item = TypeVar("Item")
T = TypeVar("T")


class Workers:
    """Does work in steps in as many threads as PyTorch has been given; with one, in the caller's.

    Within the context PyTorch has one thread in the caller's thread, too.

    Args:
        device: where the work is done; a GPU is kept busy by one thread.
    """

    def __init__(self, device: torch.device) -> None:
        self._torch_threads = torch.get_num_threads()
        self.count = self._torch_threads if device.type == "cpu" else 1
        self._stopped = Event()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(self.count, "spellstream-worker", torch.set_num_threads, (1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the work after the steps under way."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._torch_threads)

    def map(self, function: Callable[[Item], Steps[T]], items: Iterable[Item]) -> Iterator[T]:
        """The results of `function` for the items, in their order.

        With several threads all are begun at once, while the caller goes on; with one, each when it is asked for.
        """
        if self._pool is None:
            return (finish(function(item)) for item in items)
        futures = [self._pool.submit(self._work, function, item) for item in items]
        return (future.result() for future in futures)

    def _work(self, function: Callable[[Item], Steps[T]], item: Item) -> T:
        return finish(self._until_stopped(function(item)))

    def _until_stopped(self, steps: Steps[T]) -> Steps[T]:
        while not self._stopped.is_set():
            try:
                yield next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
        raise CancelledError
