"""Reading marks and capitals of written text, and scoring them against a reference."""

from __future__ import annotations

import pytest

from asr.text.marks import SCORED_MARKS, Agreement, WrittenScore, read_marks, score_written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So, who? Me!", "So, who? Me!"),
        ("“He said: ‘No’”, then left.", "He said: No, then left."),
        ("it works; it is — I think – fine--really", "it works, it is, I think, fine, really"),
        ("Mr. Smith of the U.S. paid $3.50 at 3:30 p.m.", "Mr Smith of the U S paid $3.50 at 3:30 p m."),
        ("a well-known, and/or new, example.com page...", "a well known, and or new, example.com page."),
        ("wait... what? Well... Then", "wait, what? Well. Then"),
        ("the boys' O'Brien 'quoted' rock 'n' roll", "the boys' O'Brien quoted rock n roll"),
        ("J. R. Smith took plan B.", "J R Smith took plan B."),
        ("Really?! (Yes.) Done .", "Really? Yes. Done."),
        ("über 50% c++ …", "über 50% c++."),
        ("  \n", ""),
        ("...", ""),
        ("- , ' \" ()", ""),
    ],
)
def test_marks_are_read(text: str, expected: str) -> None:
    assert " ".join(word + mark for word, mark in read_marks(text)) == expected


def test_marks_agree_with_a_reference() -> None:
    score = score_written("Yes, I am in Paris. Are you? Good: go!", "Yes I am in Paris. Are you, Good: go.")
    assert score.marks[","] == Agreement(right=0, missed=1, extra=1)
    assert score.marks["."] == Agreement(right=1, missed=0, extra=1)
    assert score.marks["?"] == Agreement(right=0, missed=1, extra=0)
    assert score.marks["!"] == Agreement(right=0, missed=1, extra=0)
    assert score.marks[":"].f1 == 1
    assert score.capitals == Agreement(right=5)


def test_a_text_agrees_with_itself() -> None:
    score = score_written("iPhone, Paris. Who? No!", "iPhone, Paris. Who? No!")
    assert [score.marks[mark].f1 for mark in SCORED_MARKS] == [1, 1, 1, 1, 0]
    assert score.capitals == Agreement(right=4)


@pytest.mark.parametrize(
    ("hypothesis", "right"),
    [
        ("I saw a cat. Then I left.", 2),
        ("I saw a. Then I left.", 2),  # a word is missing
        ("I saw a cat here. Then I left.", 2),  # a word too many
        ("I saw a cap. Then I left.", 2),  # a wrong word
        ("I saw a cat then I left.", 1),
    ],
)
def test_a_wrong_word_does_not_make_its_mark_wrong(hypothesis: str, right: int) -> None:
    assert score_written("I saw a cat. Then I left.", hypothesis).marks["."].right == right


def test_capitals_are_compared_where_the_words_agree() -> None:
    """The case of all letters counts; a wrong capital counts as missed and extra, a wrong word as neither."""
    score = score_written("NASA and iPhone in Bern", "Nasa And iphone in Rome")
    assert score.capitals == Agreement(right=0, missed=2, extra=2)


def test_an_empty_side_misses_or_adds_all() -> None:
    assert score_written("Yes. No.", "").marks["."] == Agreement(missed=2)
    assert score_written("", "Yes. No.").marks["."] == Agreement(extra=2)
    assert score_written("", "") == WrittenScore()


def test_scores_are_pooled() -> None:
    scores = [score_written("Yes. No.", "Yes. no"), score_written("A b.", "A b.")]
    pooled = sum(scores, WrittenScore())
    assert pooled.marks["."] == Agreement(right=2, missed=1)
    assert (pooled.marks["."].precision, pooled.marks["."].recall) == (1, 2 / 3)
    assert pooled.marks["."].f1 == pytest.approx(0.8)
    assert pooled.capitals == Agreement(right=2, missed=1)
