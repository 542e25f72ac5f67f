"""Conversion of words to edits: spoken commands, spaces, capitals, corrections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.dictation.dictation import CORRECTED_CHARACTERS, Dictation, step
from streaming.dictation.edits import Delete, Edit, Press, Type, edits_between
from streaming.dictation.field import KEPT_CHARACTERS, KEPT_UTTERANCES, Unit
from streaming.dictation.table import SHIPPED, Table, extended
from streaming.dictation.units import unit

TABLE = extended(Table({}), SHIPPED)
KEYS = {"Return": "\n", "Tab": "\t"}


def said(text: str) -> list[Unit]:
    """Units of written text: the word "23=twenty_three" was spoken as "twenty three", any other as it is written."""
    found: list[Unit] = []
    for word in text.split():
        written, _, spoken = word.partition("=")
        begins = not found or found[-1].mark in (".", "?", "!")
        found.append(unit(written, begins, spoken.split("_") if spoken else None))
    return found


def applied(text: str, edits: Iterable[Edit]) -> str:
    """The content of a text field after the edits, with the cursor at its end."""
    for edit in edits:
        if isinstance(edit, Type):
            assert not set(edit.text) & set("\n\t")
            text += edit.text
        elif isinstance(edit, Press):
            text += KEYS[edit.key]
        else:
            assert 0 < edit.count <= len(text)
            text = text[: -edit.count]
    return text


def dictated(*utterances: str, table: Table = TABLE) -> str:
    """The field after the finals of some utterances, which must be the same if each is typed word by word."""
    text, state = "", Dictation()
    for utterance in utterances:
        units = said(utterance)
        whole, edits = step(state, units, table, final=True)
        streamed, at_once = text, applied(text, edits)
        for end in range(len(units)):
            state, edits = step(state, units[:end], table, final=False)
            streamed = applied(streamed, edits)
        state, edits = step(state, units, table, final=True)
        text = applied(streamed, edits)
        assert text == at_once
        assert state.typed.text == whole.typed.text
    return text


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        (["hello world"], "hello world"),
        (["hello comma world full stop how are you question mark"], "hello, world. How are you?"),
        (["Hello, world.", "How are you?"], "Hello, world. How are you?"),
        (["Hello, comma, world."], "Hello, world."),
        (["Hello world.", "Question mark.", "Yes."], "Hello world? Yes."),
        (["Hello.", "Comma.", "World. I know Siobhán."], "Hello, world. I know Siobhán."),
        (["Hello.", "Comma.", "I think."], "Hello, I think."),
        (["wait — what"], "wait — what"),
        (["wait—", "dash what"], "wait — what"),
        (["well hyphen known colon open quote yes close quote comma fine"], 'well-known: "yes", fine'),
        (["Hello. Full stop. Open quote. This is it. Close quote."], 'Hello. "This is it."'),
        (["a open bracket b close bracket c"], "a (b) c"),
        (["Dear Anna, comma, new line. Thank you."], "Dear Anna,\nThank you."),
        (["one new paragraph two"], "one\n\nTwo"),
        (["one new", "line two"], "one new line two"),
        (["cap paris caps on new york city caps off is big"], "Paris New York City is big"),
        (["all caps nato all caps on no entry all caps off please"], "NATO NO ENTRY please"),
        (["foot no space ball no space on a b c no space off d"], "footballabc d"),
        (["literal comma and literal full stop"], "comma and full stop"),
        (["literal literal comma"], "literal comma"),
        (["a literal matter"], "a literal matter"),
        (["one.", "two.", "scratch that", "three."], "one. three."),
        (["one.", "two scratch that three"], "one. three"),
        (["one.", "two.", "scratch that scratch that three"], "three"),
        (["one.", "scratch that", "scratch that", "scratch that", "two"], "two"),
        (["one.", "question mark", "scratch that"], "one."),
        (["one", "new line", "scratch that two"], "one two"),
        (["scratch that"], ""),
        (["", "one", "", "two", ""], "one two"),
        (["I am 23=twenty_three years."], "I am 23 years."),
        (["–1=dash_one"], "— one"),
        (["Meet at 3:30_p.m.=three_thirty_p_m comma please"], "Meet at 3:30_p.m., please"),
        (["comma"], ","),
        (["is that so question mark exclamation mark"], "is that so?!"),
        (["all", "caps on now"], "all Now"),
        (["It is 3.5.=three_point_five comma right?"], "It is 3.5, right?"),
        (
            ["came to a full stop at the comma and put my question mark comma too"],
            "came to a full stop at the comma and put my question mark, too",
        ),
        (["we saw a period of rain period"], "we saw a period of rain."),
        (["in those times period of course"], "in those times. Of course"),
        (["that period was hard"], "that period was hard"),
        (["i like that period"], "i like that."),
        (
            ["it took a long period but we did that comma of all things"],
            "it took a long period but we did that, of all things",
        ),
        (["do that comma then go"], "do that, then go"),
        (["period of"], ". Of"),
        (["the scratch that one"], "one"),
        (["a new line"], "a\n"),
    ],
)
def test_what_is_said_is_typed(utterances: list[str], expected: str) -> None:
    assert dictated(*utterances) == expected


@pytest.mark.parametrize(
    ("text", "pauses", "expected"),
    [
        ("i like the comma well", {2: 0.5}, "i like the, well"),
        ("i like that period now", {2: 0.5}, "i like that. Now"),
        ("i like that period now", {3: 0.5}, "i like that. Now"),
        ("i like that period now", {3: 0.1}, "i like that period now"),
        ("a period of rain", {0: 0.5}, "a. Of rain"),
    ],
)
def test_a_mark_that_stands_apart_is_one(text: str, pauses: dict[int, float], expected: str) -> None:
    units = [replace(one, pause=pauses.get(at, 0.0)) for at, one in enumerate(said(text))]

    _, edits = step(Dictation(), units, TABLE, final=True)

    assert applied("", edits) == expected


def test_words_that_may_become_a_command_wait() -> None:
    state, edits = step(Dictation(), said("it is full"), TABLE, final=False)
    assert edits == [Type("it is")]
    state, edits = step(state, said("it is full stop"), TABLE, final=False)
    assert edits == [Type(".")]
    state, edits = step(state, said("it is full stop new"), TABLE, final=False)
    assert edits == []
    state, edits = step(state, said("it is full stop new ideas"), TABLE, final=False)
    assert edits == [Type(" New ideas")]


def test_only_what_differs_is_corrected() -> None:
    state, edits = step(Dictation(), said("i am twenty three years"), TABLE, final=False)
    assert edits == [Type("i am twenty three years")]
    _, edits = step(state, said("i am 23=twenty_three years."), TABLE, final=True)
    assert edits == [Delete(len("twenty three years")), Type("23 years.")]


def test_nothing_before_a_return_is_corrected() -> None:
    """Text before a Return is not corrected, since the Return may have sent a message."""
    state, edits = step(Dictation(), said("how are you new line i am"), TABLE, final=False)
    assert edits == [Type("how are you"), Press("Return"), Type("i am")]
    state, edits = step(state, said("How are you? New line. I am 23.=twenty_three"), TABLE, final=True)
    assert edits == [Delete(len("i am")), Type("I am 23.")]
    _, edits = step(state, said("scratch that"), TABLE, final=True)
    assert edits == [Delete(len("how are you\nI am 23."))]


def test_corrections_are_bounded() -> None:
    words = ["word"] * 300
    state, text = Dictation(), ""
    for end in range(0, 300, 3):
        state, edits = step(state, said(" ".join(words[:end])), TABLE, final=False)
        text = applied(text, edits)
    _, edits = step(state, said(" ".join(words).upper()), TABLE, final=True)
    assert isinstance(edits[0], Delete)
    assert CORRECTED_CHARACTERS <= edits[0].count < CORRECTED_CHARACTERS + 10
    assert applied(text, edits).lower() == " ".join(words)


def test_memory_is_bounded() -> None:
    state = Dictation()
    for _ in range(3 * KEPT_UTTERANCES):
        state, _ = step(state, said("word " * 100), TABLE, final=True)
    assert len(state.typed.text) < 3 * KEPT_CHARACTERS
    depth, text = 0, "x" + state.typed.text
    field = state.typed.before
    while field is not None:
        assert state.typed.text.startswith(field.text)
        assert len(field.text) < len(text)
        depth, text, field = depth + 1, field.text, field.before
    assert 10 < depth <= 2 * KEPT_UTTERANCES


def test_after_a_pause_nothing_before_it_is_deleted() -> None:
    state, _ = step(Dictation(), said("One."), TABLE, final=True)
    state, edits = step(state.resumed(), said("question mark scratch that two"), TABLE, final=True)
    assert edits == [Type(" two")]


VOCABULARY = [*{word for words in TABLE.commands for word in words}, "literal", "I", "Paris.", "yes,", "so?", "no —"]


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=12), max_size=5))
def test_typed_word_by_word_or_at_once_is_the_same(utterances: Sequence[Sequence[str]]) -> None:
    """Words typed one by one give the same text as at once, since the final has the same words as the partials."""
    dictated(*map(" ".join, utterances))


@given(st.text("ab\n\té\u0301"), st.text("ab\n\té\u0301"))
def test_edits_make_one_text_of_the_other(old: str, new: str) -> None:
    edits = edits_between(old, new)
    assert applied(old, edits) == new
    assert (edits == []) == (old == new)
    assert not any(isinstance(edit, Delete) for edit in edits[1:])


def test_an_accent_goes_with_its_letter() -> None:
    assert edits_between("xe\u0301", "xe\u0300") == [Delete(2), Type("e\u0300")]
