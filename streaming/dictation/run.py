"""The loop of a dictation: listen, type, pause, resume."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from asr.errors import DeviceError
from streaming.dictation.dictation import Dictation, step
from streaming.dictation.edits import edits_between
from streaming.dictation.running import State
from streaming.dictation.table import Table
from streaming.dictation.typers import StandardOutput, Typer
from streaming.dictation.units import Said

if TYPE_CHECKING:
    from streaming.dictation.switch import Switch
    from streaming.sources.base import AudioSource

__all__ = ["dictate"]


class _Typist:
    """Types the words; if the typer fails, the open utterance and all later ones go to standard output."""

    def __init__(self, typer: Typer, table: Table, partials: bool) -> None:
        self._typer, self._table = typer, table
        self._partials = partials and typer.corrects
        self._state = Dictation()
        self._text_before = ""  # the open utterance
        self.failure: DeviceError | None = None

    def resume(self) -> None:
        self._state = self._state.resumed()
        self._text_before = ""

    def write(self, said: Said) -> None:
        if not said.final and not self._partials:
            return
        if self._state.settled is None:
            self._text_before = self._state.typed.begun().text
        self._state, edits = step(self._state, said.units, self._table, final=said.final)
        if self.failure is None:
            try:
                self._typer.type(edits)
            except DeviceError as error:
                self.failure = error
        if self.failure is not None and said.final:
            StandardOutput().type(edits_between(self._text_before, self._state.typed.text))


def dictate(
    recognise: Callable[[AudioSource], Iterable[Said]],
    open_source: Callable[[], AudioSource],
    typer: Typer,
    table: Table,
    switch: Switch,
    *,
    corrections: bool = True,
    notify: Callable[[str], None],
    tell: Callable[[State], None] = lambda state: None,
) -> None:
    """Type the spoken words until the source or the switch ends.

    Args:
        recognise: yields the recognised words of a source.
        open_source: opens the source; called again after each pause, in which it is closed.
        typer: types.
        table: the spoken commands.
        switch: entered by the caller.
        corrections: whether words are typed before their utterance is finished, and corrected.
        notify: called with one line for the user.
        tell: called with the state when the dictation begins to listen or pauses.

    Raises:
        AudioError, DeviceError: the source or the typer failed; the words so far were typed or, after a failure of the
            typer, printed.
    """
    typist = _Typist(typer, table, corrections)
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
            for said in recognise(source):
                typist.write(said)
                if typist.failure is not None and not switch.ended:
                    notify("typing fails; the remaining text follows on standard output")
                    switch.stop()
        if switch.toggles == toggles:
            break
        typist.resume()
    if typist.failure is not None or isinstance(typer, StandardOutput):
        sys.stdout.write("\n")
        sys.stdout.flush()
    if typist.failure is not None:
        raise typist.failure
