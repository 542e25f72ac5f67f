"""Number words and their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = [
    "CURRENCIES",
    "DIGITS",
    "MONTHS",
    "ORDINALS",
    "TENS",
    "UNDER_TWENTY",
    "Figures",
    "Number",
    "Rule",
    "Written",
    "cardinal",
    "follows",
    "is_number_word",
    "ordinal",
    "suffix",
    "under_hundred",
]

UNDER_TWENTY = {
    word: value
    for value, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}
SCALES = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000, "trillion": 1_000_000_000_000}
DIGITS = {"oh": 0, **{word: value for word, value in UNDER_TWENTY.items() if value < 10}}
ORDINALS = {
    **{
        word: value
        for value, word in enumerate(
            (
                *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
                *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth"),
                *("eighteenth", "nineteenth"),
            ),
            start=1,
        )
    },
    **{word[:-1] + "ieth": value for word, value in TENS.items()},
}
CURRENCIES = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€", "pound": "£", "pounds": "£", "yen": "¥"}
MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october"),
    *("november", "december"),
)


class Number(NamedTuple):
    """The value of a number that ends before word `end`."""

    end: int
    value: int


class Figures(NamedTuple):
    """A number in figures, which ends before word `end`."""

    end: int
    text: str


class Written(NamedTuple):
    """What a rule makes of the words before word `end`: their written form, or None where they stay as they are."""

    end: int
    text: str | None


Rule = Callable[[Sequence[str], int], Written | None]
"""Words and a start → the written form of the words from there on; None: the rule does not apply."""


def follows(words: Sequence[str], at: int, *options: str) -> bool:
    """Whether the word at a position is one of these; false beyond the end."""
    return 0 <= at < len(words) and words[at] in options


def is_number_word(word: str) -> bool:
    """Whether a word is a part of cardinals; "hundred" and the like are."""
    return word in UNDER_TWENTY or word in TENS or word in SCALES or word == "hundred"


def under_hundred(words: Sequence[str], start: int) -> Number | None:
    """A number from 0 to 99: "five", "seventeen", "twenty", "twenty three"."""
    if start >= len(words):
        return None
    if words[start] in UNDER_TWENTY:
        return Number(start + 1, UNDER_TWENTY[words[start]])
    if words[start] not in TENS:
        return None
    tens, ones = TENS[words[start]], UNDER_TWENTY.get(words[start + 1], 0) if start + 1 < len(words) else 0
    return Number(start + 2, tens + ones) if 0 < ones < 10 else Number(start + 1, tens)


def cardinal(words: Sequence[str], start: int) -> Number | None:
    """The longest cardinal at a word: "two million three hundred thousand and five"; "a hundred and two"."""
    total, at, last_scale = 0, start, 10**15
    while (part := _with_hundreds(words, at, article=at == start)) is not None:
        end, value = part
        scale = SCALES.get(words[end], 1) if end < len(words) else 1
        if scale >= last_scale or (value == 0 and at > start):
            break
        total, last_scale = total + value * scale, scale
        at = end + (scale > 1)
        if scale == 1:
            break
        # "two thousand and five": the "and" belongs to it only if a smaller part follows.
        after = at + (at < len(words) and words[at] == "and")
        following = _with_hundreds(words, after)
        if following is None or following.value == 0:
            break
        if after > at and (following.value >= 100 or (following.end < len(words) and words[following.end] in SCALES)):
            break  # "two thousand and three hundred" are two numbers
        at = after
    return Number(at, total) if at > start else None


def _with_hundreds(words: Sequence[str], start: int, article: bool = False) -> Number | None:
    """A number that may have hundreds: "twenty", "nineteen hundred", "three hundred and five".

    With `article` also the start of "a hundred" and "a thousand".
    """
    if article and start + 1 < len(words) and words[start] == "a" and (words[start + 1] in {"hundred", *SCALES}):
        first: Number | None = Number(start + 1, 1)
    else:
        first = under_hundred(words, start)
    if first is None or first.value == 0 or first.end >= len(words) or words[first.end] != "hundred":
        return first
    end, value = first.end + 1, 100 * first.value
    rest = under_hundred(words, end + (end < len(words) and words[end] == "and"))
    return Number(rest.end, value + rest.value) if rest is not None and rest.value else Number(end, value)


def ordinal(words: Sequence[str], start: int) -> Number | None:
    """An ordinal below 100: "first", "twenty first"."""
    if start >= len(words):
        return None
    if words[start] in ORDINALS:
        return Number(start + 1, ORDINALS[words[start]])
    if words[start] in TENS and start + 1 < len(words) and 0 < ORDINALS.get(words[start + 1], 0) < 10:
        return Number(start + 2, TENS[words[start]] + ORDINALS[words[start + 1]])
    return None


def suffix(value: int) -> str:
    """The ending of an ordinal in digits: "st", "nd", "rd" or "th"."""
    return "th" if value // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
