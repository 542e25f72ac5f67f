"""Control of a dictation by signals."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from streaming.dictation.switch import Switch


@pytest.mark.timeout(30)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_that_another_thread_receives_ends_the_pause(number: signal.Signals) -> None:
    """Handlers run in the main thread, whose wait only a signal of its own interrupts.

    A paused dictation waited without a limit, so a signal that the system delivered to another thread, or just before
    the wait began, had no effect: the dictation stayed paused.
    """
    with Switch() as switch:
        switch.paused = True

        def receive() -> None:
            time.sleep(0.1)  # by then the main thread waits
            signal.pthread_kill(threading.get_ident(), number)

        other = threading.Thread(target=receive)
        other.start()
        switch.wait()
        other.join()
        assert (switch.paused, switch.ended) == (number != signal.SIGUSR1, number == signal.SIGTERM)
