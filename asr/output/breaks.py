"""Cost of a line or cue break of subtitles between two words."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PAUSE_MS", "Timed", "cost_of_break"]

PAUSE_MS = 300  # a silence this long is a good place to end a cue

_TITLES = frozenset(
    ("Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "St.", "Mt.", "Gen.", "Col.", "Capt.", "Sen.", "Gov.", "No.")
)
_INITIAL = re.compile(r"[^\W\d_]\.")
# Articles, prepositions, pronouns and auxiliaries belong with the following word.
_BEFORE_MORE = frozenset(
    (
        *("a", "an", "the", "this", "my", "your", "his", "her", "its", "our", "their", "no", "every", "each", "some"),
        *("of", "to", "in", "at", "on", "for", "with", "by", "from", "as", "into", "about", "between", "through"),
        *("and", "or", "but", "if", "that", "because", "when", "than", "which", "who", "what", "how"),
        *("i", "he", "she", "we", "they", "you", "it", "i'm", "it's", "we're", "they're", "you're", "there"),
        *("is", "are", "was", "were", "be", "been", "am", "has", "have", "had", "do", "does", "did", "not", "very"),
        *("will", "would", "can", "could", "should", "may", "might", "must", "don't", "didn't", "can't"),
    )
)
_BEGINNINGS = frozenset(
    (
        *("and", "but", "or", "because", "which", "who", "that", "when", "where", "if", "so", "than", "then"),
        *(
            "in",
            "on",
            "at",
            "with",
            "for",
            "from",
            "by",
            "as",
            "into",
            "about",
            "between",
            "through",
            "until",
            "before",
        ),
    )
)
_AFTER_NUMBER = frozenset(
    ("a.m.", "p.m.", "million", "billion", "trillion", "percent", "BC", "AD", "o'clock", "degrees")
)


@dataclass(frozen=True)
class Timed:
    """A word, or the part of a long one that fits on a line, with its time."""

    text: str
    start_ms: int
    end_ms: int


def cost_of_break(word: Timed, following: Timed) -> float:
    """Cost of ending a line or cue between two words, in fractions of its length; negative after a sentence.

    A title stays with its name and a number with its unit. Articles, prepositions and the like stay with the following
    word.
    """
    if following.text == "—":  # belongs to the word before it
        return 0.5
    if word.text in _TITLES or (_INITIAL.fullmatch(word.text) and following.text[0].isupper()):
        return 0.5
    # "p.m." within a sentence does not end it: the next word is in lower case.
    if word.text[-1] in ".?!" and not following.text[0].islower():
        return -0.4
    bare = following.text.rstrip(",.;:?!")
    if (following.text if following.text in _AFTER_NUMBER else bare) in _AFTER_NUMBER:
        return 0.5
    if word.text[-1] in ",;:—" or following.start_ms - word.end_ms >= PAUSE_MS:
        return -0.2
    if any(c.isdigit() for c in word.text) or (word.text[0].isupper() and following.text[0].isdigit()):
        return 0.3
    if word.text.lower() in _BEFORE_MORE:
        return 0.2
    if word.text[0].isupper() and following.text[0].isupper():  # a name
        return 0.2
    if following.text.lower() in _BEGINNINGS:
        return -0.05
    return 0.1 if len(word.text) <= 3 else 0.0
