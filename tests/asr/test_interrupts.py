"""Ctrl-C at a safe moment."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from asr.interrupts import uninterrupted


def interrupt() -> None:
    """Send Ctrl-C's signal from another thread, which takes it, since the main thread blocks it."""
    thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
    thread.start()
    thread.join()


def test_an_interrupt_takes_effect_at_the_end() -> None:
    """Taken by another thread, Ctrl-C interrupted the start of processes in the main thread, which had blocked it."""
    before, done = signal.getsignal(signal.SIGINT), []

    def start() -> None:
        with uninterrupted():
            interrupt()
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_nothing_happens_without_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_the_handler_alone() -> None:
    """Only the main thread can set it."""
    handlers = []

    def other() -> None:
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
