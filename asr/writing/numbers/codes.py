"""Numbers that identify rather than count: telephone numbers, rooms and pages, fixed phrases."""

from __future__ import annotations

from collections.abc import Sequence

from asr.writing.numbers.amounts import LEAST_IN_FIGURES
from asr.writing.numbers.cardinals import (
    DIGITS,
    ORDINALS,
    TENS,
    Figures,
    Written,
    cardinal,
    follows,
    is_number_word,
    under_hundred,
)

__all__ = ["digit_string", "fixed_phrase", "labelled_number", "toll_free"]

_BEFORE_LONGER_NUMBER = ("at", "call", "dial", "point")
_LEAST_IN_A_ROW = 4  # fewer digits in a row count rather than identify
_UNITS = ("hundred", "thousand", "million", "billion", "point", "o'clock", "percent")

_PHRASES: dict[tuple[str, ...], str | None] = {
    tuple(said.split()): written
    for said, written in (
        ("twenty four seven", "24/7"),
        ("nine eleven", "9/11"),
        ("twenty twenty vision", "20/20 vision"),
        ("four oh one k", "401(k)"),
        ("world war one", "World War I"),
        ("world war two", "World War II"),
        ("r and d", "R&D"),
        ("r and b", "R&B"),
        ("q and a", "Q&A"),
        ("a t and t", "AT&T"),
        ("c plus plus", "C++"),
        ("fifty fifty", None),
        ("forty winks", None),
        ("eleventh hour", None),
        ("ten commandments", None),
        ("sweet sixteen", None),
        ("covid nineteen", "COVID-19"),
        ("m p three", "MP3"),
        ("m p four", "MP4"),
        ("h two o", "H2O"),
        ("c o two", "CO2"),
        ("b two b", "B2B"),
        ("b two c", "B2C"),
        ("p two p", "P2P"),
        ("two d", "2D"),
        ("three d", "3D"),
        ("three g", "3G"),
        ("four g", "4G"),
        ("five g", "5G"),
        ("four k", "4K"),
        ("five k", "5K"),
    )
}
"""Phrases that are neither counts nor spelled letters, and their written forms; None: in words."""

_LABELS = frozenset(
    "page chapter section paragraph verse volume version episode season figure room apartment suite gate platform "
    "flight route highway interstate channel act appendix article category class exit model scene table terminal "
    "track type windows vitamin".split()
)
_LABELS_OF_CODES = frozenset(
    "error code bus line extension building unit train boeing airbus bed box locker number".split()
)
_LABELS_OF_SEVERAL = frozenset(("pages", "chapters", "sections", "paragraphs", "verses", "episodes", "rooms"))
_DETERMINERS = frozenset(
    "a an the this that these each every one per any no another first last next my your his her our their its new "
    "same other to".split()
)
_PLURALS = frozenset(("people", "men", "women", "children"))


def fixed_phrase(words: Sequence[str], at: int) -> Written | None:
    """One of the fixed phrases, unless it is a part of a longer number or of more letters."""
    for length in (4, 3, 2):
        said = tuple(words[at : at + length])
        if said not in _PHRASES:
            continue
        end, starts_with_number = at + length, is_number_word(said[0])
        before, after = words[at - 1 : at], words[end : end + 1]
        if starts_with_number and any(is_number_word(word) or word in _BEFORE_LONGER_NUMBER for word in before):
            return None
        if any(is_number_word(word) or word in ORDINALS or (len(word) == 1 and word != "a") for word in after):
            return None
        return Written(end, _PHRASES[said])
    return None


def digit_string(words: Sequence[str], at: int) -> Written | None:
    """Digits said one by one: "double five five oh one two three" → "555-0123"."""
    text, end, repeats = "", at, False
    while end < len(words):
        times = {"double": 2, "triple": 3}.get(words[end], 1)
        digit = end + (times > 1)
        if digit >= len(words) or words[digit] not in DIGITS:
            break
        text += str(DIGITS[words[digit]]) * times
        repeats |= times > 1
        end = digit + 1
    if end < len(words) and (words[end] in TENS or words[end] in _UNITS):
        return None
    is_counting = text in "0123456789" or text in "9876543210"
    if len(text) < (_LEAST_IN_A_ROW - repeats) or (is_counting and not repeats):
        return Written(end, text) if list(words[at:end]) == ["nine", "one", "one"] else None
    if len(text) == 7:
        text = f"{text[:3]}-{text[3:]}"
    elif len(text) == 10:
        text = f"{text[:3]}-{text[3:6]}-{text[6:]}"
    elif len(text) == 11 and text[0] == "1":
        text = f"1-{text[1:4]}-{text[4:7]}-{text[7:]}"
    return Written(end, text)


def toll_free(words: Sequence[str], at: int) -> Written | None:
    """A North American number with its area code as hundreds: "one eight hundred five five five …" → "1-800-555-…"."""
    if not (
        follows(words, at, "one") and follows(words, at + 1, "eight", "nine") and follows(words, at + 2, "hundred")
    ):
        return None
    end = at + 3
    while end < len(words) and words[end] in DIGITS and end < at + 10:
        end += 1
    rest = "".join(str(DIGITS[word]) for word in words[at + 3 : end])
    return Written(end, "-".join(part for part in (f"1-{DIGITS[words[at + 1]]}00", rest[:3], rest[3:]) if part))


def labelled_number(words: Sequence[str], at: int) -> Written | None:
    """The number of a page, room or flight: "room two oh five" → 205, "page five" → 5, "pages two to four"."""
    if at == 0 or words[at - 1] not in _LABELS | _LABELS_OF_CODES | _LABELS_OF_SEVERAL:
        return None
    found = _code(words, at)
    if found is None:
        return _with_letter(words, at)
    end, text = found
    if len(text) > 1:
        return Written(end, text) if words[at - 1] not in _LABELS_OF_SEVERAL else None
    if words[at - 1] in _LABELS_OF_SEVERAL:
        other = under_hundred(words, end + 1) if follows(words, end, "and", "to", "through", "or") else None
        return Written(other.end, f"{text} {words[end]} {other.value}") if other is not None else None
    if words[at - 1] in _LABELS_OF_CODES or (at > 1 and words[at - 2] in _DETERMINERS):
        return None  # "in the room two of them"
    if end < len(words) and (words[end] in _PLURALS or words[end] in ORDINALS or words[end] in ("or", "to", "point")):
        return None
    return Written(end, text)


def _with_letter(words: Sequence[str], at: int) -> Written | None:
    """A letter and a number: "gate b twelve" → B12."""
    if len(words[at]) != 1 or not words[at].isalpha() or at + 1 >= len(words):
        return None
    found = _code(words, at + 1)
    return Written(found.end, words[at].upper() + found.text) if found is not None else None


def _code(words: Sequence[str], at: int) -> Figures | None:
    """Digits, or numbers below 100, side by side: "two oh five", "four eighty two"; else a cardinal."""
    whole = cardinal(words, at)
    if whole is None or words[at] == "a" or follows(words, whole.end, "point", "percent"):
        return None
    if whole.end == len(words) or not (is_number_word(words[whole.end]) or words[whole.end] == "oh"):
        return Figures(whole.end, str(whole.value))
    text, end = "", at
    while end < len(words):
        if words[end] == "oh":
            text, end = text + "0", end + 1
            continue
        part = under_hundred(words, end)
        if part is None:
            break
        text, end = text + str(part.value), part.end
    if len(text) > 5 or text.endswith("0" * 4) or follows(words, end, *_UNITS) or whole.value > 10 * LEAST_IN_FIGURES:
        return None
    return Figures(end, text)
