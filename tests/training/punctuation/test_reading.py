"""Reading of punctuated text as spoken words with marks and case."""

from __future__ import annotations

import pytest

from asr.training.punctuation.reading import case_of, read_line
from asr.writing.vocabulary import Case

pytest.importorskip("num2words")


def spoken(line: str) -> str:
    return " ".join(target.word + target.mark for target in read_line(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("So, who? Me!", "so, who? me!"),
        ("Café Zürich.", "cafe zurich."),
        ("It was 1995, not 1,995.", "it was nineteen ninety five, not one thousand nine hundred and ninety five."),
        ("The 1990s, the 21st.", "the nineteen nineties, the twenty first."),
        ("About 3.5%, or $20.", "about three point five percent, or twenty dollars."),
        ("It cost $5 million. Yes.", "yes."),  # not "five dollars million", as it was
        ("I paid $1. He paid $3.50. Yes.", "yes."),
        ("R&D & more.", ""),
        ("See example.com now. It works.", "it works."),  # a sentence that cannot be read aloud is left out
        ("Это не то. It works.", "it works."),
        ("a heading without an end", ""),
        ("ALL RIGHTS RESERVED.", ""),
        ("", ""),
        ("...", ""),
        ("7" * 5_000 + " is large. Yes.", "yes."),
    ],
)
def test_what_is_spoken(line: str, expected: str) -> None:
    assert spoken(line) == expected


def test_a_line_without_marks_teaches_nothing() -> None:
    assert spoken("word " * 70 + "end.") == ""
    assert spoken("word, " * 70 + "end.") != ""


def test_beginnings_of_sentences_are_known() -> None:
    targets = read_line("The cat. In 1995 it left.")
    assert [target.word for target in targets if target.first] == ["the", "in"]
    assert [target.written for target in targets][:2] == ["The", "cat"]


@pytest.mark.parametrize(
    ("word", "written", "case"),
    [
        ("cat", "cat", Case.LOWER),
        ("paris", "Paris", Case.CAPITAL),
        ("i", "I", Case.CAPITAL),
        ("i'm", "I'm", Case.CAPITAL),
        ("nasa", "NASA", Case.UPPER),
        ("nasa's", "NASA's", Case.UPPER),
        ("iphone", "iPhone", Case.MIXED),
        ("o'brien", "O'Brien", Case.MIXED),
    ],
)
def test_the_case_of_a_word(word: str, written: str, case: Case) -> None:
    assert case_of(word, written) == case
