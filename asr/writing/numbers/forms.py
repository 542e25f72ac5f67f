"""Inverse text normalisation for English: numbers, dates, times, money, telephone numbers and spelled letters.

At each word, rules are tried from the most specific to the plain number. Ambiguous phrases stay in words: a wrong digit
is worse than a word. (The library text2num, which converts every number word to digits, fails 133 of the first 216
cases of tests/asr/writing/numbers.tsv, mostly because they are more than plain numbers.)
"""

from __future__ import annotations

from collections.abc import Sequence

from asr.writing.numbers.amounts import age, first_of_range, money, ordinal_number, percent, plain
from asr.writing.numbers.cardinals import Rule, is_number_word
from asr.writing.numbers.codes import digits, labelled, phrase, toll_free
from asr.writing.numbers.dates import clock, day_first, minutes_past, month_first, year
from asr.writing.numbers.letters import letters
from asr.writing.parts import Form

__all__ = ["LOOKAHEAD_WORDS", "forms"]

LOOKAHEAD_WORDS = 4
"""Number of following words after which a word outside all forms can no longer become part of one."""

_RULES: tuple[Rule, ...] = (
    phrase,
    month_first,
    day_first,
    minutes_past,
    clock,
    toll_free,
    labelled,
    digits,
    money,
    percent,
    first_of_range,
    year,
    age,
    ordinal_number,
    plain,
    letters,
)


def forms(words: Sequence[str], sure: Sequence[bool] | None = None, breaks: Sequence[bool] | None = None) -> list[Form]:
    """The written forms of the numbers among words.

    Args:
        words: in lower case, as recognised.
        sure: False for words that may be wrong: a number, date or name that contains one stays in words; None: all are
            sure.
        breaks: True if a mark or a long pause, which no form crosses, follows the word; None: nowhere.

    Returns:
        Forms in order that do not overlap.
    """
    found: list[Form] = []
    start = 0
    for end in range(1, len(words) + 1):
        if end == len(words) or (breaks is not None and breaks[end - 1]):
            stretch = _stretch(words[start:end])
            found += (Form(start + form.start, start + form.end, form.text) for form in stretch)
            start = end
    return [form for form in found if sure is None or all(sure[form.start : form.end])]


def _stretch(words: Sequence[str]) -> list[Form]:
    """The forms of words without a break."""
    found: list[Form] = []
    at = 0
    while at < len(words):
        for rule in _RULES:
            hit = rule(words, at)
            if hit is not None:
                end, text = hit
                if text is not None:
                    found.append(Form(at, end, text))
                at = end
                break
        else:
            at = _after_numbers(words, at)
    return found


def _after_numbers(words: Sequence[str], at: int) -> int:
    """The next word to examine: a run of number words that matches no rule is skipped as a whole."""
    end = at + 1
    if is_number_word(words[at]):
        while end < len(words) and is_number_word(words[end]):
            end += 1
    return end
