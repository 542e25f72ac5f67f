"""Control of a dictation by signals."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from streaming.sources.ring_buffer import Signal

if TYPE_CHECKING:
    from streaming.sources.base import AudioSource

__all__ = ["Switch"]

CHECK_SECONDS = 0.2  # a signal that another thread receives does not interrupt the main thread's wait


class Switch:
    """The state set by signals: SIGUSR1 pauses or resumes, SIGTERM and Ctrl-C end; a second one of these interrupts.

    A context manager for the main thread.
    """

    def __init__(self) -> None:
        self.paused = self.ended = False
        self.toggles = 0
        self._source: AudioSource | None = None
        self._wake = Signal()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Switch:
        handlers = {signal.SIGUSR1: self._toggle, signal.SIGTERM: self._end, signal.SIGINT: self._end}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # blocked by the process that started this one
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """Wait until dictation is resumed or ended."""
        while self.paused and not self.ended:
            self._wake.wait(CHECK_SECONDS)

    @contextlib.contextmanager
    def stopping(self, source: AudioSource) -> Iterator[None]:
        """Stop this source on a pause or at the end."""
        self._source = source
        if self.paused or self.ended:  # requested while the source was being opened
            source.stop()
        try:
            yield
        finally:
            self._source = None

    def stop(self) -> None:
        """End the dictation, like a signal."""
        self.ended = True
        self._changed()

    def _toggle(self, number: int, frame: FrameType | None) -> None:
        self.paused = not self.paused
        self.toggles += 1
        self._changed()

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.ended:
            raise KeyboardInterrupt
        self.stop()

    def _changed(self) -> None:
        if self._source is not None and (self.paused or self.ended):
            self._source.stop()
        self._wake.send()
