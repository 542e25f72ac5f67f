"""Processes that decode batches, each with one PyTorch thread.

Much of a search is Python, and threads share its lock: beyond three or four they gain little.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.config import require
from asr.decoding import decode_each
from asr.jobs import Decoding
from asr.pools import prepare, sendable, submit
from asr.steps import Steps, finish
from asr.transcript import Segment

__all__ = ["Decoder", "Processes"]

# Forked processes start in milliseconds and share the memory of the model. Elsewhere system libraries do not survive a
# fork; there, new processes load the model, which takes seconds.
_FORKS = sys.platform == "linux"
_MOST = 16  # processes for which the main process can read audio and find speech in it
_LOG = logging.getLogger(__name__)

Decoded = list[Segment | Exception]  # of one batch


class Decoder(Protocol):
    """What is needed of a `Recogniser`, which also can be sent to another process."""

    device: torch.device

    def steps(self, decoding: Decoding) -> Callable[[Sequence[Tensor]], Steps[list[Segment]]]:
        """See `Recogniser.steps`."""


class Processes:
    """Processes for `Recogniser.transcribe_many`.

        if __name__ == "__main__":  # needed on Windows and macOS, where new processes import the main module
            recogniser = asr.load("default", device="cpu")
            with asr.Processes(recogniser) as processes:
                for outcome in recogniser.transcribe_many(paths, processes=processes):
                    ...

    Linux forks the processes at the start of the context: enter it before you start threads, which may hold locks.
    Other systems start them when a job turns out to be long; until then, threads decode.

    Args:
        recogniser: forked with its present weights; on other systems than Linux, loaded again from its folder.
        count: number of processes, at most 16; by default, as many as PyTorch's threads. None are used on a GPU.

    Attributes:
        count: number of processes; 1 means that none are used.

    Raises:
        ConfigError: `count` is below 1.
    """

    def __init__(self, recogniser: Decoder, count: int | None = None) -> None:
        require(count is None or count > 0, "count", count, "at least 1")
        self.count = min(count or torch.get_num_threads(), _MOST) if recogniser.device.type == "cpu" else 1
        self._recogniser = recogniser
        self._stopped: Event | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._usable = self.count > 1

    def are_ready(self, is_long: bool) -> bool:
        """Whether to use them: if they are running, and none has died. They are started now if the job is long."""
        if is_long and self._pool is None:
            self._start()
        return self._pool is not None and self._usable

    def __enter__(self) -> Processes:
        if _FORKS:
            try:
                self._start()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes after their current steps; jobs begun later are decoded by threads."""
        self._usable = False
        if self._stopped is not None and self._pool is not None:
            self._stopped.set()
            self._pool.shutdown(cancel_futures=True)

    def decode(self, batches: Sequence[Sequence[Tensor]], decoding: Decoding) -> Iterator[Decoded]:
        """The segments of each batch, in order, as by `decode_each`; all batches are begun at once.

        Raises:
            RuntimeError: they are not running, see `are_ready`.
        """
        if self._pool is None:
            raise RuntimeError("no processes are running")
        decoding = replace(decoding, writer=None)  # the processes do not write
        futures = [submit(self._pool, _decode, decoding, [wave.numpy() for wave in batch]) for batch in batches]
        return (self._result(future, decoding, batch) for future, batch in zip(futures, batches, strict=True))

    def _start(self) -> None:
        if not self._usable:
            return
        context, others = get_context("fork" if _FORKS else "spawn"), set(active_children())
        try:
            self._stopped = context.Event()
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (self._recogniser, self._stopped))
            with warnings.catch_warnings():
                # Python warns of forks beside other threads. PyTorch's own do not run: each process uses only one.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                submit(self._pool, os.getpid)
        except (ImportError, OSError, RuntimeError) as error:  # no semaphores, or a limit on processes or threads
            if isinstance(error, RuntimeError) and not _FORKS:
                raise  # Python explains what the main module lacks
            _LOG.warning("no processes can be started, so threads decode: %s", error)
            self._pool, self._usable = None, False
            # Those that were started before the limit was reached: nothing else would ever end them.
            for child in set(active_children()) - others:
                child.kill()
                child.join()

    def _result(self, future: Future[Decoded], decoding: Decoding, batch: Sequence[Tensor]) -> Decoded:
        """The result of a process, or if one died, which it may for want of memory, our own."""
        try:
            return future.result()
        except BrokenProcessPool:
            if self._usable:
                _LOG.warning("a process has died; its batches are decoded by the main process")
            self._usable = False
        except CancelledError:  # it had not begun when the processes were ended
            pass
        return finish(decode_each(self._recogniser.steps(decoding), batch))


_recogniser: Decoder  # of a process that `_begin` has prepared
_stopped: Event


def _begin(recogniser: Decoder, stopped: Event) -> None:
    global _recogniser, _stopped
    prepare()
    _recogniser, _stopped = recogniser, stopped


def _decode(decoding: Decoding, batch: Sequence[npt.NDArray[np.float32]]) -> Decoded:
    """Decode a batch in a process."""
    steps = decode_each(_recogniser.steps(decoding), [torch.from_numpy(waveform) for waveform in batch])
    found = finish(steps, _stopped.is_set)
    return [sendable(each) if isinstance(each, Exception) else each for each in found]
