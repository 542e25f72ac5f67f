"""Conversion of a segment's words to units: their spoken words, and the mark after them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from asr.transcript import Segment, Word
from asr.writing.parts import Tag, Utterance
from asr.writing.writer import Writer
from streaming.dictation.field import Unit
from streaming.dictation.units import Said, said, unit, units
from streaming.events import Final, Partial


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


class FullStops:
    """A stub tagger: a full stop after every utterance, and a capital for Anna."""

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        return [
            [
                Tag(word.replace("anna", "Anna"), "." if at == len(one.words) else "")
                for at, word in enumerate(one.words, 1)
            ]
            for one in utterances
        ]


def test_events_are_written() -> None:
    """A partial has no mark after its last word, since the next words are unknown."""
    first, second = timed("hello", "anna"), timed("yes", first=2.0)
    events = [
        Partial(tuple(first[:1]), tuple(first[1:]), 1.0),
        Final(Segment("hello anna", 0, 2, -1.0, tuple(first)), 2.0),
        Partial((), tuple(second), 2.5),
        Final(Segment("yes", 2, 3, -1.0, tuple(second)), 3.0),
    ]
    hello, anna, yes = (
        Unit(("hello",), "Hello", begins=True),
        Unit(("anna",), "Anna", "."),
        Unit(("yes",), "Yes", ".", True),
    )
    expected = [Said([hello], False), Said([hello, anna], True), Said([], False), Said([yes], True)]
    assert list(said(events, Writer(FullStops()))) == expected
    spoken = [[word.text for word in words] for words in (first[:1], first, (), second)]
    assert [[one.text for one in each.units] for each in said(events)] == spoken
