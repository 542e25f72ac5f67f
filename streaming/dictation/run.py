"""The loop of a dictation: listen, type, pause, go on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from asr.errors import DeviceError
from streaming.dictation.dictation import Dictation, step
from streaming.dictation.edits import edits_between
from streaming.dictation.running import State
from streaming.dictation.table import Table
from streaming.dictation.typers import StandardOutput, Typer
from streaming.dictation.units import units
from streaming.events import Event, Final, Partial
from streaming.sources.ring_buffer import Signal

if TYPE_CHECKING:
    from streaming.engine import Engine
    from streaming.sources.base import AudioSource

__all__ = ["Switch", "dictate"]


class Switch:
    """What signals ask for: SIGUSR1 pauses or goes on, SIGTERM and Ctrl-C end; a second one of these interrupts.

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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # held back by whoever started this process
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """Wait until it goes on, or ends."""
        while self.paused and not self.ended:
            self._wake.wait()

    @contextlib.contextmanager
    def stopping(self, source: AudioSource) -> Iterator[None]:
        """Stop this source when there is a pause, or the end."""
        self._source = source
        if self.paused or self.ended:  # asked for while it was opened
            source.stop()
        try:
            yield
        finally:
            self._source = None

    def stop(self) -> None:
        """End, as a signal would."""
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


class _Hand:
    """Types what is said; when the typer fails, the open utterance and all after it go to standard output."""

    def __init__(self, typer: Typer, table: Table, partials: bool) -> None:
        self._typer, self._table = typer, table
        self._partials = partials and typer.corrects
        self._state = Dictation()
        self._begun = ""  # the text before the open utterance
        self.failure: DeviceError | None = None

    def resume(self) -> None:
        self._state = self._state.resumed()
        self._begun = ""

    def write(self, event: Event) -> None:
        final = isinstance(event, Final)
        if isinstance(event, Partial) and not self._partials:
            return
        words = event.segment.words if isinstance(event, Final) else event.committed
        if self._state.settled is None:
            self._begun = self._state.typed.begun().text
        self._state, edits = step(self._state, units(words), self._table, final=final)
        if self.failure is None:
            try:
                self._typer.type(edits)
            except DeviceError as error:
                self.failure = error
        if self.failure is not None and final:
            StandardOutput().type(edits_between(self._begun, self._state.typed.text))


def dictate(
    engine: Engine,
    open_source: Callable[[], AudioSource],
    typer: Typer,
    table: Table,
    switch: Switch,
    *,
    corrections: bool = True,
    notify: Callable[[str], None],
    tell: Callable[[State], None] = lambda state: None,
) -> None:
    """Type what is said until the source ends or the switch is told to end.

    Args:
        engine: recognises.
        open_source: opens the source; called again after each pause, in which it is closed.
        typer: types.
        table: the spoken commands.
        switch: entered by the caller.
        corrections: whether words are typed before their utterance is finished, and corrected.
        notify: called with one line for the user.
        tell: called when the dictation begins to listen, or pauses.

    Raises:
        AudioError, DeviceError: the source or the typer failed; what had been said is typed or, with a typer that
            failed, printed.
    """
    from streaming.listener import Listener

    hand = _Hand(typer, table, corrections)
    while not switch.ended:
        if switch.paused:
            tell("paused")
            notify("paused; the microphone is closed")
            switch.wait()
            continue
        toggles, source = switch.toggles, open_source()
        with source, switch.stopping(source):
            tell("listening")
            notify(f"listening to {source.name}; typing with {typer.name}")
            for event in Listener(engine, source, notify=notify):
                hand.write(event)
                if hand.failure is not None and not switch.ended:
                    notify(f"{hand.failure}; what was not typed follows on standard output")
                    switch.stop()
        if switch.toggles == toggles:
            break
        hand.resume()
    if hand.failure is not None:
        sys.stdout.write("\n")
        sys.stdout.flush()
        raise hand.failure
