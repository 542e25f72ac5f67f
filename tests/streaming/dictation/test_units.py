"""Words of a segment to units: which spoken words each was written for, and the mark after it."""

from __future__ import annotations

import pytest

from asr.transcript import Word
from streaming.dictation.field import Unit
from streaming.dictation.units import unit, units


def timed(*texts: str, first: float = 0.0) -> list[Word]:
    return [Word(text, first + i, first + i + 1, 1.0) for i, text in enumerate(texts)]


def test_spoken_words_are_their_own() -> None:
    assert units(timed("hello", "comma")) == [Unit(("hello",), "hello", "", True), Unit(("comma",), "comma", "", False)]


def test_written_words_know_what_was_spoken() -> None:
    spoken = timed("meet", "at", "three", "thirty", "p", "m", "anna")
    written = [Word("Meet", 0, 1, 1.0), Word("at", 1, 2, 1.0), Word("3:30 p.m.", 2, 6, 1.0), Word("Anna?", 6, 7, 1.0)]
    assert units(written, spoken) == [
        Unit(("meet",), "Meet", "", True),
        Unit(("at",), "at"),
        Unit(("three", "thirty", "p", "m"), "3:30 p.m."),
        Unit(("anna",), "Anna", "?"),
    ]


@pytest.mark.parametrize("ends", [(0.0, 0.0), (1.0, 9.0), (9.0, 9.0), (0.5, 2.5)])
def test_no_spoken_word_is_lost_where_times_disagree(ends: tuple[float, float]) -> None:
    spoken = timed("a", "b", "c")
    written = [Word("A", 0, ends[0], 1.0), Word("bc.", 1, ends[1], 1.0)]
    assert [word for one in units(written, spoken) for word in one.spoken] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("written", "text", "mark"),
    [
        ("Paris,", "Paris", ","),
        ("wait —", "wait", "—"),
        ("23.", "23", "."),
        ("3.5.", "3.5", "."),
        ("p.m.", "p.m.", ""),
        (".", ".", ""),
        ("", "", ""),
        ("a\x1bb\n", "ab", ""),
    ],
)
def test_the_mark_is_known(written: str, text: str, mark: str) -> None:
    assert (unit(written).text, unit(written).mark) == (text, mark)
