"""Cost of a line or cue break of subtitles between two words, in fractions of the length of the line or cue."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Timed", "cost_of_break"]

_PAUSE_MS = 300  # a silence this long is a good place to end a cue

# The lower the cost, the better the place.
_AFTER_SENTENCE = -0.4
_AFTER_CLAUSE = -0.2  # after a comma or the like, or at a pause
_BEFORE_CLAUSE = -0.05  # before a conjunction or preposition
_AFTER_SHORT_WORD = 0.1
_WITHIN_PHRASE = 0.2  # after a word that belongs with the following one, or within a name
_AFTER_NUMBER = 0.3  # before the noun that it counts
_INSEPARABLE = 0.5  # title and name, number and unit

_TITLES = frozenset("Mr. Mrs. Ms. Dr. Prof. St. Mt. Gen. Col. Capt. Sen. Gov. No.".split())
_INITIAL = re.compile(r"[^\W\d_]\.")
# Articles, prepositions, conjunctions, pronouns and auxiliaries belong with the following word.
_LEADING_WORDS = frozenset(
    "a an the this my your his her its our their no every each some "
    "of to in at on for with by from as into about between through "
    "and or but if that because when than which who what how "
    "i he she we they you it i'm it's we're they're you're there "
    "is are was were be been am has have had do does did not very "
    "will would can could should may might must don't didn't can't".split()
)
_CLAUSE_STARTS = frozenset(
    "and but or because which who that when where if so than then "
    "in on at with for from by as into about between through until before".split()
)
_UNITS = frozenset("a.m. p.m. million billion trillion percent BC AD o'clock degrees".split())


@dataclass(frozen=True)
class Timed:
    """A word, or the part of a long one that fits on a line, with its time."""

    text: str
    start_ms: int
    end_ms: int


def cost_of_break(word: Timed, following: Timed) -> float:
    """Cost of ending a line or cue between two words, in fractions of its length; negative for a good place.

    A title stays with its name and a number with its unit. Articles, prepositions and the like stay with the following
    word.
    """
    if following.text == "—":  # belongs to the word before it
        return _INSEPARABLE
    if word.text in _TITLES or (_INITIAL.fullmatch(word.text) and following.text[0].isupper()):
        return _INSEPARABLE
    # "p.m." within a sentence does not end it: the next word is in lower case.
    if word.text[-1] in ".?!" and not following.text[0].islower():
        return _AFTER_SENTENCE
    if following.text in _UNITS or following.text.rstrip(",.;:?!") in _UNITS:
        return _INSEPARABLE
    if word.text[-1] in ",;:—" or following.start_ms - word.end_ms >= _PAUSE_MS:
        return _AFTER_CLAUSE
    if any(c.isdigit() for c in word.text) or (word.text[0].isupper() and following.text[0].isdigit()):
        return _AFTER_NUMBER
    if word.text.lower() in _LEADING_WORDS:
        return _WITHIN_PHRASE
    if word.text[0].isupper() and following.text[0].isupper():
        return _WITHIN_PHRASE
    if following.text.lower() in _CLAUSE_STARTS:
        return _BEFORE_CLAUSE
    return _AFTER_SHORT_WORD if len(word.text) <= 3 else 0.0
