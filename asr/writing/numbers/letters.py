"""Spelled letters, as opposed to the words "a" and "i" and to stammered letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from asr.writing.numbers.cardinals import Written, follows, is_number_word

__all__ = ["spelled_letters"]

_LONGEST = 12  # letters of a spelled word
# Two letters are more often a stammer than initials, so only these pairs are joined.
_PAIRS = frozenset(
    "bc cd cv db dc dj dm ec ep er eu ev fm gb gm gp hd hp hq hr jd jk jp js la lp md ml mp ms nj ny nz ok os pc ph "
    "pm pr qa qb qr rv sd sr tb tv ui uk un us uv ux vc vm vp vr xl".split()
)
# Neither an article nor "I" follows these, so a first letter "a" or "i" after them is spelled.
_DETERMINERS = frozenset(("an", "the", "our", "your", "their", "its", "my", "his", "her"))
_PAIRS_AFTER_DETERMINERS = frozenset(("ac", "ad", "ai", "ap", "ar", "av", "id", "ip", "iq", "it", "iv"))
_STAMMERED = {
    **dict.fromkeys(("aaa", "ada", "faa"), _DETERMINERS),
    "ui": _DETERMINERS | {"a"},
    "la": frozenset(("", "from", "in", "of", "the", "to")),
}
"""Initials that may also be a stammer, and the words that must precede them."""
_BEFORE_UNKNOWN = _DETERMINERS | frozenset(
    "a and at by called code for from in letters name named of on or spell spelled with".split()
)
"""Words that must precede letters that are not in initialisms.txt, unless the letters stand alone."""
_AFTER_I = frozenset(
    "am m mean don't do think have had was would will can could know guess just really want wanted said see should "
    "feel love like as to".split()
)
_UNITS = frozenset("cm db fps ft kg km kph lb mg ml mm mph psi rpm".split())
_PLURALS = frozenset(("apis", "atms", "ceos", "cds", "dvds", "ngos", "pcs", "stds", "tvs", "ufos", "urls"))
_WRITTEN = {
    "aka": "a.k.a.",
    "eg": "e.g.",
    "phd": "PhD",
    "www": "www",
    **{plural: plural[:-1].upper() + "s" for plural in _PLURALS},
}


@cache
def _initialisms() -> frozenset[str]:
    """Usual abbreviations of three letters and more, in lower case."""
    return frozenset(Path(__file__).with_name("initialisms.txt").read_text(encoding="utf-8").split())


def spelled_letters(words: Sequence[str], at: int) -> Written | None:
    """Spelled letters: "u s" → "US"; the words "a" and "i" stay words."""
    end = at
    while end < len(words) and len(words[end]) == 1 and words[end].isalpha():
        end += 1
    before = words[at - 1] if at > 0 else ""
    if not 2 <= end - at <= _LONGEST or _is_list(words, end) or (len(before) == 1 and before not in "ai"):
        return None
    said, follow = "".join(words[at:end]), words[end] if end < len(words) else ""
    if said in _STAMMERED and before not in _STAMMERED[said]:
        return None
    if said[0] == "a" and said[1:] in _PAIRS and said != "abc" and before not in _DETERMINERS:
        return None  # "a t v": the article, then "t v" by itself
    if said in _UNITS and is_number_word(before):
        return Written(end, said)
    if len(said) == 2 and said[0] in "ai":
        told = before in _DETERMINERS and said in _PAIRS_AFTER_DETERMINERS and follow not in _AFTER_I
        return Written(end, said.upper()) if told or (said == "ad" and is_number_word(before)) else None
    if said not in _initialisms() and said not in _WRITTEN:
        if said[0] in "ai" and before not in _DETERMINERS:
            return None
        if follow and said[-1] in "ai" and not _has_doubled_vowel(said):
            said = said[:-1]  # "it has a g a good one", "in the u s i think"
        alone = at == 0 and not follow
        if not _are_initials(said, told=alone or before in _BEFORE_UNKNOWN):
            return None
    return Written(at + len(said), _WRITTEN.get(said) or said.upper())


def _is_list(words: Sequence[str], end: int) -> bool:
    """Whether the letters end in "and" or "or" and one more letter, as a list does: "b v k and w"."""
    if not follows(words, end, "and", "or") or end + 1 >= len(words) or len(words[end + 1]) > 1:
        return False
    return end + 2 >= len(words) or len(words[end + 2]) > 1


def _are_initials(said: str, told: bool) -> bool:
    """Whether letters are known initials, or initials by context and without a stammer such as "a a e y"."""
    if len(said) < 3 or said in _initialisms():
        return said in _PAIRS or said in _initialisms()
    return told and not _has_doubled_vowel(said) and not any(3 * letter in said for letter in said)


def _has_doubled_vowel(said: str) -> bool:
    return any(first == second and first in "aeiou" for first, second in pairwise(said))
