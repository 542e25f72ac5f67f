"""Distinction of a spoken mark from the same words as a noun: "full stop", "came to a full stop"."""

from __future__ import annotations

from collections.abc import Sequence

from streaming.dictation.field import Unit
from streaming.dictation.table import Command

__all__ = ["is_noun"]

_APART_SECONDS = 0.3  # a silence this long before or after a mark is a deliberate pause
_ARTICLES = frozenset("a an the my your his her our their its every each another".split())
_BEFORE_NOUN = frozenset(
    "this that these those any some no one which first second third last next same whole entire certain given "
    "long longer short shorter brief early late later limited extended "
    "time trial grace waiting training transition".split()
)


def is_noun(before: Sequence[Unit], said: Sequence[Unit], command: Command, count: int) -> bool:
    """Whether the words of a mark are meant as words.

    They are after an article, unless the speaker paused before them. A mark that is also a common noun ("period") is
    meant as words before "of" too, and after "this", "long" and the like if speech continues without a pause.

    Args:
        before: the preceding words of the utterance, one by one.
        said: the words of the mark, one by one, and the following words.
        command: the command that they would be.
        count: number of words of the mark.
    """
    if not command.mark or (before and before[-1].pause >= _APART_SECONDS):
        return False
    last = before[-1].spoken[0] if before else ""
    if last in _ARTICLES or not command.noun or not last:
        return last in _ARTICLES
    follow = [word for unit in said[count : count + 2] for word in unit.spoken]
    of = follow[:1] == ["of"] and follow[1:2] not in (["course"], ["all"])
    goes_on = bool(follow) and said[count - 1].pause < _APART_SECONDS
    return goes_on and (of or last in _BEFORE_NOUN)
