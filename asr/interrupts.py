"""Ctrl-C at a safe moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["uninterrupted"]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """In the main thread, let Ctrl-C take effect at the end of the context; processes started within it ignore Ctrl-C.

    A pool of processes whose start is interrupted may wait for them forever.
    """
    came: list[FrameType | None] = []
    in_main, blocks = threading.current_thread() is threading.main_thread(), hasattr(signal, "pthread_sigmask")
    if in_main:
        handler = signal.signal(signal.SIGINT, lambda _, frame: came.append(frame))
    if blocks:  # not on Windows; new processes inherit it, but it does not hold for other threads of this one
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler)
            if came and callable(handler):
                handler(signal.SIGINT, came[0])
