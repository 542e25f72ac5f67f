"""Threads that decode batches in parallel, each with one PyTorch thread.

PyTorch's own threads split each operation and synchronise at its end. The operations of a search are short, so two
threads are no faster than one, and far slower on a busy machine where one of them may be waiting for a core. PyTorch
releases Python's lock within its operations, which are long with whole batches of files; in searches threads still wait
for it at times, so that processes decode where the caller provides them (`asr.processes`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from types import TracebackType
from typing import TypeVar

import torch

from asr.steps import Steps, finish

__all__ = ["Workers"]

Item = TypeVar("Item")
T = TypeVar("T")


class Workers:
    """Runs work in steps in as many threads as PyTorch is set to use; with one, in the caller's thread.

    Within the context, PyTorch also uses a single thread in the caller's thread.

    Args:
        device: device of the model; for a GPU, one thread is enough.
    """

    def __init__(self, device: torch.device) -> None:
        self._torch_threads = torch.get_num_threads()
        self.count = self._torch_threads if device.type == "cpu" else 1
        self._stopped = Event()
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: ThreadPoolExecutor | None = None  # apart from the batches, behind which it would wait

    def __enter__(self) -> Workers:
        if self.count > 1:
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(self.count, "spellstream-worker", torch.set_num_threads, (1,))
            self._ahead = ThreadPoolExecutor(self.count, "spellstream-ahead", torch.set_num_threads, (1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the work after the current steps."""
        self._stopped.set()
        if self._pool is not None and self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._torch_threads)

    def map(self, function: Callable[[Item], Steps[T]], items: Iterable[Item]) -> Iterator[T]:
        """The results of `function` for the items, in their order.

        With several threads all are begun at once, while the caller continues; with one, each when it is requested.
        """
        if self._pool is None:
            return (finish(function(item)) for item in items)
        futures = [self._pool.submit(self._work, function, item) for item in items]
        return (future.result() for future in futures)

    def ahead(self, function: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Like the builtin `map`; several threads work on the next items while the caller uses a result.

        Batches given to `map` of this class do not delay them.
        """
        if self._ahead is None:
            yield from map(function, items)
            return
        begun: deque[Future[T]] = deque()
        for item in items:
            begun.append(self._ahead.submit(function, item))
            if len(begun) > self.count:
                yield begun.popleft().result()
        for future in begun:
            yield future.result()

    def _work(self, function: Callable[[Item], Steps[T]], item: Item) -> T:
        return finish(function(item), self._stopped.is_set)
