"""Punctuation and capitals: parsing of written text, and scoring against a reference.

A mark belongs to the word before it. Quotes and brackets are not marks. A semicolon or dash counts as a comma, as usual
in scoring punctuation (Federico et al. 2012), and an ellipsis as a comma or full stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asr.text.normalise import plain

__all__ = ["SCORED_MARKS", "Agreement", "MarkedWord", "WrittenScore", "read_marks", "score_written"]

SCORED_MARKS = (",", ".", "?", "!", ":")

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‘’‛ʼ`´", "'"),
        **dict.fromkeys('“”„‟«»"()[]{}<>*_|', " "),
        **dict.fromkeys("–−", "-"),
        **dict.fromkeys("—―", " - "),
        "…": "...",
    }
)
_TITLES = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Sen|Rep|Gov|Mt|vs)\.(?=\s+\w)")
_INITIALS = re.compile(r"\b(?:(?:[A-Za-z]\.){2,}|[A-HJ-Z]\.(?=\s+[A-Z]))")
_TAIL = re.compile(r"[^\w%+#]+$")
_HEAD = re.compile(r"^[^\w$€£@#+]+")


class MarkedWord(NamedTuple):
    """A written word, without marks, and the mark after it: one of `SCORED_MARKS`, or empty."""

    text: str
    mark: str


@dataclass(frozen=True)
class Agreement:
    """Agreement of a hypothesis with a reference; `+` pools counts."""

    right: int = 0
    missed: int = 0  # only in the reference
    extra: int = 0  # only in the hypothesis

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.extra)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if neither side has any."""
        return 2 * self.right / max(1, 2 * self.right + self.missed + self.extra)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.right + other.right, self.missed + other.missed, self.extra + other.extra)


@dataclass(frozen=True)
class WrittenScore:
    """Agreement of written texts in marks and capitals; `+` pools counts: `sum(scores, WrittenScore())`.

    Args:
        marks: for each of `SCORED_MARKS`; correct if both sides have the mark after the same word.
        capitals: of words with a capital, including the first of a sentence; correct if the case of all letters agrees.
    """

    marks: Mapping[str, Agreement] = field(default_factory=lambda: dict.fromkeys(SCORED_MARKS, Agreement()))
    capitals: Agreement = Agreement()

    def __add__(self, other: WrittenScore) -> WrittenScore:
        marks = {mark: self.marks[mark] + other.marks[mark] for mark in SCORED_MARKS}
        return WrittenScore(marks, self.capitals + other.capitals)


def read_marks(text: str) -> list[MarkedWord]:
    """Split a written text into words, each with the mark after it: "So, who? Me!" → So `,` who `?` Me `!`.

    Each part of a hyphenated word and each letter of initials ("U.S.") is a separate word. Points and colons inside
    numbers, times and addresses ("3.5", "3:30", "example.com"), after initials and after titles ("Mr.") are not marks.
    """
    text = _INITIALS.sub(_spread, _TITLES.sub(r"\1", text.translate(_SIGNS).replace("--", " - ")))
    words: list[MarkedWord] = []
    for piece in text.split():
        tail = _TAIL.search(piece)
        core = piece[: tail.start()] if tail else piece
        words += [MarkedWord(part, "") for part in (_HEAD.sub("", part) for part in re.split(r"[-/]", core)) if part]
        if tail and words and not words[-1].mark:
            sign = tail.group()
            if sign == "'" and words[-1].text.endswith("s"):  # a plural's apostrophe
                words[-1] = words[-1]._replace(text=words[-1].text + "'")
            words[-1] = words[-1]._replace(mark="..." if sign.startswith("..") else _mark(sign))
    following = [*(word.text for word in words), "The"][1:]
    return [
        word if word.mark != "..." else word._replace(mark="." if after[:1].isupper() else ",")
        for word, after in zip(words, following, strict=True)
    ]


def score_written(reference: str, hypothesis: str) -> WrittenScore:
    """Score the marks and capitals of a written text, whose words may be wrong, against a written reference.

    Words are aligned by edit distance, ignoring case and accents. The mark of a word without a counterpart moves to the
    previous word, so that a missing word does not make the mark after it wrong. Capitals are compared where the words
    agree.
    """
    ours, theirs = read_marks(reference), read_marks(hypothesis)
    marks = {mark: [0, 0, 0] for mark in SCORED_MARKS}
    capitals = [0, 0, 0]
    for (left, wanted), (right, found) in _aligned(ours, theirs):
        if wanted and wanted == found:
            marks[wanted][0] += 1
        else:
            for mark, kind in ((wanted, 1), (found, 2)):
                if mark:
                    marks[mark][kind] += 1
        if plain(left) == plain(right):
            upper = left != left.lower(), right != right.lower()
            if all(upper) and left == right:
                capitals[0] += 1
            else:
                capitals[1] += upper[0]
                capitals[2] += upper[1]
    return WrittenScore({mark: Agreement(*counts) for mark, counts in marks.items()}, Agreement(*capitals))


def _spread(found: re.Match[str]) -> str:
    """Split initials into words; a point at the end of the text stays as its full stop."""
    letters = " ".join(found.group().replace(".", " ").split())
    return letters if found.string[found.end() :].strip() else f"{letters}."


def _mark(signs: str) -> str:
    """The mark that stands for a run of signs after a word."""
    for mark in "?!":
        if mark in signs:
            return mark
    marks = [sign for sign in signs if sign in ".,:;-"]
    return "" if not marks else marks[-1].translate(str.maketrans(";-", ",,"))


def _aligned(ours: Sequence[MarkedWord], theirs: Sequence[MarkedWord]) -> list[tuple[MarkedWord, MarkedWord]]:
    """Aligned words of two texts; the marks of words without a counterpart move to the pair before them."""
    import jiwer

    if not ours or not theirs:
        nothing = MarkedWord("", "")
        return [*((word, nothing) for word in ours), *((nothing, word) for word in theirs)]
    # A placeholder for words that `plain` makes empty: jiwer would drop them and shift the rest.
    sides = [" ".join("".join(plain(word.text).split()) or "X" for word in side) for side in (ours, theirs)]
    pairs: list[tuple[MarkedWord, MarkedWord]] = [(MarkedWord("", ""), MarkedWord("", ""))]
    for chunk in jiwer.process_words(sides[0], sides[1]).alignments[0]:
        left = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        right = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type in ("equal", "substitute"):
            pairs += zip(left, right, strict=True)
            continue
        above, below = pairs[-1]
        for word in left:
            above = above._replace(mark=above.mark or word.mark)
        for word in right:
            below = below._replace(mark=below.mark or word.mark)
        pairs[-1] = above, below
    return pairs
