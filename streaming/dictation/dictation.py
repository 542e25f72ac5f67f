"""Conversion of spoken words to edits of the focused text field: a pure function of a state, which is a value.

    state, edits = step(state, units, table, final=False)

`units` are the known part of the open utterance. Typed text whose written form has changed ("twenty three" → "23") is
corrected where it differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streaming.dictation.edits import Edit, edits_between
from streaming.dictation.field import Field, Unit
from streaming.dictation.nouns import is_noun
from streaming.dictation.table import Table

__all__ = ["CORRECTED_CHARACTERS", "Dictation", "step"]

CORRECTED_CHARACTERS = 400  # text further back is not corrected; only "scratch that" reaches it


@dataclass(frozen=True)
class Dictation:
    """The state between two events.

    Args:
        typed: the current field.
        settled: the field after the words of the open utterance that are no longer corrected; None: no utterance is
            open.
        words: number of spoken words of the open utterance in `settled`.
    """

    typed: Field = field(default_factory=Field)
    settled: Field | None = None
    words: int = 0

    def resumed(self) -> Dictation:
        """The state after a pause, which ends an open utterance."""
        return Dictation(self.typed.resumed())


class _Written(NamedTuple):
    """The field after the first `words` spoken words; `returned`: the last of them pressed Return."""

    words: int
    field: Field
    returned: bool


def step(state: Dictation, units: Sequence[Unit], table: Table, *, final: bool) -> tuple[Dictation, list[Edit]]:
    """Type the known part of the open utterance.

    Words that may form a command with the next ones ("full", "new") are held back until those arrive.

    Args:
        state: the state after the stream's last event.
        units: all committed words of the utterance.
        table: the spoken commands.
        final: whether the utterance is finished.
    """
    start = state.typed.begun() if state.settled is None else state.settled
    written = [_Written(state.words, start, False), *_write(start, state.words, units, table, final)]
    typed = written[-1].field
    edits = edits_between(state.typed.text if state.settled else start.text, typed.text)
    if final:
        return Dictation(typed), edits

    # A pressed Return may have sent a message: nothing before it can be corrected.
    settled = written[0]
    for one in written:
        if one.returned or len(one.field.text) < len(typed.text) - CORRECTED_CHARACTERS:
            settled = one
    return Dictation(typed, settled.field, settled.words), edits


def _write(start: Field, skipped: int, units: Sequence[Unit], table: Table, final: bool) -> Iterator[_Written]:
    """The field after each word and command that follows the first `skipped` spoken words."""
    pieces = list(_split(units, skipped, table))
    before = [word for unit in units for word in unit.split()][:skipped]
    done, now = skipped, start
    while pieces:
        words = [word for piece in pieces for word in piece.spoken]
        if not final and any(table.may_begin(words[ahead:]) for ahead in range(len(pieces[0].spoken))):
            return
        taken, returned = 1, False  # in pieces; the pieces of a command are single words
        if words[0] == table.literal and (count := table.match(words[1:])):
            taken += count
            for piece in pieces[1:taken]:
                now = now.word(piece)
        elif (count := table.match(words)) and not is_noun(before, pieces, table.commands[tuple(words[:count])], count):
            taken = count
            command = table.commands[tuple(words[:count])]
            now = now.command(command)
            returned = "\n" in command.text
        else:
            now = now.word(pieces[0])
        before += [word for piece in pieces[:taken] for word in piece.split()]
        done += sum(len(piece.spoken) for piece in pieces[:taken])
        pieces = pieces[taken:]
        yield _Written(done, now, returned)


def _split(units: Sequence[Unit], skipped: int, table: Table) -> Iterator[Unit]:
    """Units after the first `skipped` words; a unit with words of a command, or across the cut, is split."""
    words = [word for unit in units for word in unit.spoken]
    in_command = [False] * len(words)
    for at in range(len(words)):
        for i in range(at, at + table.match(words[at:])):
            in_command[i] = True
    at = 0
    for unit in units:
        end = at + len(unit.spoken)
        if len(unit.spoken) > 1 and (at < skipped < end or any(in_command[at:end])):
            yield from unit.split()[max(0, skipped - at) :]
        elif at >= skipped:
            yield unit
        at = end
