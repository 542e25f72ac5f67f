"""Spoken forms of a written phrase: initials letter by letter, digits as words, abbreviations in full."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

from asr.text.normalise import fold
from asr.writing.numbers.cardinals import TENS, UNDER_TWENTY

__all__ = ["common_words", "spoken_forms"]

_MAX_FORMS = 12  # of a phrase
_SHORTEST_PART = 3  # least letters of each common word in a compound name
_ABBREVIATIONS = {
    "bros": "brothers",
    "co": "company",
    "corp": "corporation",
    "dept": "department",
    "dr": "doctor",
    "gov": "governor",
    "inc": "incorporated",
    "jr": "junior",
    "ltd": "limited",
    "mr": "mister",
    "mrs": "missus",
    "mt": "mount",
    "prof": "professor",
    "sr": "senior",
    "st": "saint",
    "univ": "university",
    "vs": "versus",
}
_SIGNS = {"&": " and ", "+": " plus ", "@": " at ", "%": " percent "}
_UNDER_TWENTY = tuple(UNDER_TWENTY)  # by their value
_TENS = ("", "", *TENS)  # by their first digit


@cache
def common_words() -> frozenset[str]:
    """The 5,000 most frequent English words, names left out, in lower case."""
    return frozenset(Path(__file__).with_name("common_words.txt").read_text(encoding="utf-8").split())


def spoken_forms(text: str) -> tuple[str, ...]:
    """The spoken forms of a phrase, as normalised text, plainest first; at most 12, none if it has no word.

    - Capitals and common words inside a word may begin words: "NextCloud", "Nextcloud" → "nextcloud", "next cloud".
    - Capitals alone may be spelled: "ACME" → "acme", "a c m e".
    - Digits are said as a number or one by one: "Route 66" → "route sixty six", "route six six".
    - A dot inside a word may be said: "example.com" → "example com", "example dot com".
    - Usual abbreviations are said in full: "ACME Corp." → "acme corp", "acme corporation".

    Characters that have no spoken form stay as they are.
    """
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    choices = [_word_forms(word) for word in re.split(r"[\s\-–—_/]+", text)]
    choices = [forms for forms in choices if forms]
    if not choices:
        return ()
    together = (" ".join(parts) for parts in itertools.islice(itertools.product(*choices), 4 * _MAX_FORMS))
    return tuple(dict.fromkeys(together))[:_MAX_FORMS]


def _word_forms(word: str) -> list[str]:
    """The spoken forms of a written word."""
    if re.search(r"[0-9]", word):
        groups = re.findall(r"[0-9]+|[^0-9]+", word)
        choices = [_digits(group) if group.isdecimal() else _word_forms(group) for group in groups]
        choices = [forms for forms in choices if forms]
        return [" ".join(parts) for parts in itertools.islice(itertools.product(*choices), _MAX_FORMS)]
    plain = fold(word)
    if not plain:
        return []
    forms = [plain]
    bare = word.strip(".,;:!?()\"'")
    if re.search(r"\w\.\w", bare):
        forms.append(fold(bare.replace(".", " dot ")))
    if 1 < len(bare) <= 6 and bare.isupper() and bare.isalpha():
        forms.append(" ".join(plain))
    if plain in _ABBREVIATIONS:
        forms.append(_ABBREVIATIONS[plain])
    parts = fold(re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", word))
    forms.append(parts)
    if plain not in common_words():
        forms += (f"{a} {b}" for a, b in _halves(plain) if {a, b} <= common_words())
    return list(dict.fromkeys(forms))


def _halves(word: str) -> list[tuple[str, str]]:
    """All splits of a word into two parts that are both long enough."""
    return [(word[:at], word[at:]) for at in range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1)]


def _digits(digits: str) -> list[str]:
    """The spoken forms of a run of digits."""
    single = " ".join(_UNDER_TWENTY[int(digit)] for digit in digits)
    if len(digits) > 4 or (digits[0] == "0" and len(digits) > 1):
        return [single]
    forms = [_cardinal(int(digits)), single]
    if len(digits) == 4 and digits[2:] != "00" and digits[1] != "0":
        tail = _cardinal(int(digits[2:])) if digits[2] != "0" else f"oh {_UNDER_TWENTY[int(digits[3])]}"
        forms.insert(0, f"{_cardinal(int(digits[:2]))} {tail}")
    return list(dict.fromkeys(forms))


def _cardinal(number: int) -> str:
    """A number below 10,000 in words."""
    if number < 20:
        return _UNDER_TWENTY[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_UNDER_TWENTY[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {_cardinal(number % size)}" if number % size else ""
    return f"{_cardinal(number // size)} {name}{rest}"
