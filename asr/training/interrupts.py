"""Ctrl-C in a training run: the step under way ends, and what is saved is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["heeding_interrupts"]


@contextlib.contextmanager
def heeding_interrupts() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, so that the step under way ends and what is saved is whole; the second stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield asked
        return

    def heed(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, heed)
    try:
        yield asked
    except SystemExit:  # what lightning makes of a KeyboardInterrupt
        if not asked.is_set():
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
