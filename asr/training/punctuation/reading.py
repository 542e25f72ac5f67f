"""Conversion of punctuated text to the recogniser's output: spoken words in lower case, with marks and cases."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple

from asr.text.marks import MarkedWord, read_marks
from asr.text.normalise import plain
from asr.writing.parts import SENTENCE_ENDS
from asr.writing.vocabulary import Case

__all__ = ["Target", "case_of", "read_line"]

_PLAIN = re.compile(r"[a-z]+(?:'[a-z]+)*'?")
_NUMBER = re.compile(r"([$€£]?)(\d[\d,]*)(?:\.(\d+))?(st|nd|rd|th|s|%|k|bn|m)?")
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds"}
_SCALES = {"hundred", "thousand", "million", "billion", "trillion"}
_UNITS = {"%": "percent", "k": "thousand", "m": "million", "bn": "billion"}
_MOST_DIGITS = 12
_LEAST_MARKED = 60  # words: a line with no mark for this long is not punctuated


class Target(NamedTuple):
    """A spoken word and how it is written."""

    word: str  # in lower case
    mark: str
    written: str  # with its capitals, including the one at the beginning of a sentence
    first: bool  # whether it begins a sentence


def read_line(line: str) -> list[Target]:
    """Words of a line of text; sentences that cannot be read aloud are left out, the rest joined.

    A line that does not end with a sentence (a heading, a broken utterance) is skipped, and so is one in capitals.
    """
    words = read_marks(line)
    if not words or words[-1].mark not in SENTENCE_ENDS or _shouted(line):
        return []
    found: list[Target] = []
    for sentence in _sentences(words):
        found += _spoken(sentence)
    return found


def case_of(word: str, written: str) -> Case:
    """The case of a word: "NASA's" is upper, "I'm" a capital, "iPhone" mixed."""
    if word == written:
        return Case.LOWER
    stem = written.removesuffix("'s") if len(written) > 2 else written
    if len(stem) > 1 and stem.isupper() and "'" not in stem:
        return Case.UPPER
    return Case.CAPITAL if written == word[:1].upper() + word[1:] else Case.MIXED


def _shouted(line: str) -> bool:
    upper = sum(map(str.isupper, line))
    return upper > 0.4 * max(1, sum(map(str.isalpha, line)))


def _sentences(words: Sequence[MarkedWord]) -> Iterator[list[MarkedWord]]:
    ended = 0

    def number(word: MarkedWord) -> int:
        nonlocal ended
        now = ended
        ended += word.mark in SENTENCE_ENDS
        return now

    return (list(group) for _, group in groupby(words, number))


def _spoken(sentence: Sequence[MarkedWord]) -> list[Target]:
    if len(sentence) > _LEAST_MARKED and not any(word.mark for word in sentence[:-1]):
        return []
    found: list[Target] = []
    for (text, mark), following in zip_longest(sentence, sentence[1:]):
        if text[:1] in _CURRENCIES and following and following.text.lower() in _SCALES:
            return []  # "$5 million" is "five million dollars"
        word = plain(text)
        if _PLAIN.fullmatch(word):
            spoken = [(word, text if len(text) == len(word) and text.isascii() else _cased(word, text))]
        else:
            spoken = [(each, each) for each in _numeral(text)]
        if not spoken:
            return []
        found += [Target(each, "", written, not found and i == 0) for i, (each, written) in enumerate(spoken)]
        found[-1] = found[-1]._replace(mark=mark)
    return found


def _cased(word: str, text: str) -> str:
    """A word without accents, but with its capitals."""
    if text.isupper() and len(text) > 1:
        return word.upper()
    return word.capitalize() if text[:1].isupper() else word


@functools.lru_cache(maxsize=50_000)
def _numeral(text: str) -> tuple[str, ...]:
    """The spoken form of a number; empty unless it is a number with a single spoken form."""
    from num2words import num2words

    found = _NUMBER.fullmatch(text)
    if text == "&":
        return ("and",)
    if not found or len(found[2]) > _MOST_DIGITS:
        return ()
    currency, digits, fraction, ending = found.groups()
    value = int(digits.replace(",", ""))
    if currency and (fraction or value == 1):  # "three dollars fifty", "one dollar"
        return ()
    year = "," not in digits and len(digits) == 4 and 1100 <= value < 2100 and not currency and not fraction
    if ending in ("st", "nd", "rd", "th"):
        said = num2words(value, to="ordinal")
    else:
        said = num2words(value, to="year" if year and ending in (None, "s") else "cardinal")
    if fraction:
        said += " point " + " ".join(num2words(int(digit)) for digit in fraction)
    words = [word for word in re.split(r"[\s,-]+", said) if word]
    if ending == "s":
        words[-1] = words[-1][:-1] + "ies" if words[-1].endswith("y") else words[-1] + "s"
    words += [unit for unit in (_UNITS.get(ending or ""), _CURRENCIES.get(currency)) if unit]
    return tuple(words)
