"""Pools of processes: their start, their end and their errors."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process
from typing import TypeVar

import torch

from asr.interrupts import uninterrupted

__all__ = ["prepare", "sendable", "submit"]

T = TypeVar("T")


def submit(pool: Executor, function: Callable[..., T], *args: object) -> Future[T]:
    """Submit a call, which may start processes. If one has died, the future has the error."""
    try:
        with uninterrupted():
            return pool.submit(function, *args)
    except BrokenProcessPool as error:
        failed = Future[T]()
        failed.set_exception(error)
        return failed


def prepare() -> None:
    """Prepare a new process: one PyTorch thread; it ignores Ctrl-C, and ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def sendable(error: Exception) -> Exception:
    """The error, or one like it: an error that cannot be made from its arguments would break the connection."""
    try:
        copy.deepcopy(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """Exit when the parent is gone, even if it was killed: otherwise this process would wait for calls forever."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
