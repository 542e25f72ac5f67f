"""Inverse text normalisation for English: numbers, dates, times, money, telephone numbers and spelled letters.

At each word, rules are tried from the most specific to the plain number. Ambiguous phrases stay in words: a wrong digit
is worse than a word. (The library text2num, which converts every number word to digits, fails 133 of the first 216
cases of tests/asr/writing/numbers.tsv, mostly because they are more than plain numbers.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from asr.writing.numbers.amounts import age_as_noun, count, first_of_range, money, ordinal_number, percentage
from asr.writing.numbers.cardinals import Rule, is_number_word
from asr.writing.numbers.codes import digit_string, fixed_phrase, labelled_number, toll_free
from asr.writing.numbers.dates import day_first, minutes_past_hour, month_first, time_of_day, year
from asr.writing.numbers.letters import spelled_letters
from asr.writing.parts import Form

__all__ = ["LOOKAHEAD_WORDS", "forms"]

LOOKAHEAD_WORDS = 4
"""Number of following words after which a word outside all forms can no longer become part of one."""

_RULES: tuple[Rule, ...] = (
    fixed_phrase,
    month_first,
    day_first,
    minutes_past_hour,
    time_of_day,
    toll_free,
    labelled_number,
    digit_string,
    money,
    percentage,
    first_of_range,
    year,
    age_as_noun,
    ordinal_number,
    count,
    spelled_letters,
)
"""From the most specific to the most general; the first that applies decides."""


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
            unbroken = _unbroken_forms(tuple(words[start:end]))
            found += (Form(start + form.start, start + form.end, form.text) for form in unbroken)
            start = end
    return [form for form in found if sure is None or all(sure[form.start : form.end])]


@functools.lru_cache(maxsize=1_024)  # a stream's partials repeat the words before the last break
def _unbroken_forms(words: tuple[str, ...]) -> tuple[Form, ...]:
    """The forms of words without a break."""
    found: list[Form] = []
    at = 0
    while at < len(words):
        written = next(filter(None, (rule(words, at) for rule in _RULES)), None)
        if written is None:
            at = _after_number_words(words, at)
            continue
        if written.text is not None:
            found.append(Form(at, written.end, written.text))
        at = written.end
    return tuple(found)


def _after_number_words(words: Sequence[str], at: int) -> int:
    """The next word to examine: a run of number words that matches no rule is skipped as a whole."""
    end = at + 1
    if is_number_word(words[at]):
        while end < len(words) and is_number_word(words[end]):
            end += 1
    return end
