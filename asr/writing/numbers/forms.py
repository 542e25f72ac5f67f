"""Inverse text normalisation for English: numbers, dates, times, money, telephone numbers and spelled letters.

Rules, tried at each word from the most particular to the plain number. What can be read in two ways stays in words: a
wrong digit is worse than a word. (The library text2num, which writes every number word in digits, has 133 of the first
216 cases of tests/asr/writing/numbers.tsv wrong, most of them since they are not only numbers.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asr.writing.numbers.cardinals import (
    DIGITS,
    MONTHS,
    ORDINALS,
    TENS,
    UNDER_TWENTY,
    Number,
    cardinal,
    is_number_word,
    ordinal,
    suffix,
    under_hundred,
)
from asr.writing.parts import Form

__all__ = ["LOOKAHEAD_WORDS", "forms"]

LOOKAHEAD_WORDS = 4
"""Words that must follow a word which is in no form for it to stay in none."""

_LEAST = 10  # smaller numbers stay in words, as good style has it
_GROUPED = 10_000  # numbers from here on, and those that look like no year, get commas
_FEW = 4  # digits in a row that are a number rather than a count
_YEARS = range(1_100, 2_100)
_YEAR_BEFORE = frozenset(
    (
        *("in", "since", "by", "of", "until", "till", "from", "year", "to", "before", "after", "during", "early"),
        *("late", "summer", "spring", "winter", "autumn", "fall", "around"),
    )
)
_PRONOUNS = frozenset(("i", "you", "he", "she", "it", "we", "they", "who", "that", "one"))
_CURRENCIES = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€", "pound": "£", "pounds": "£"}
_MINOR = ("cents", "pence", "p")
_AFTER_PRICE = frozenset(
    ("a", "an", "and", "at", "but", "each", "for", "in", "is", "on", "or", "per", "please", "to", "was")
)
_AFTER_SECOND = frozenset(("amendment", "avenue", "birthday", "century", "floor", "president", "street"))
_MERIDIEMS = {("a", "m"): "a.m.", ("p", "m"): "p.m.", ("pm",): "p.m.", ("am",): "a.m."}
_UNITS = ("hundred", "thousand", "million", "billion", "point", "o'clock", "percent")
_AFTER_NONE = frozenset(("oh", "point", "tens", "hundreds", "thousands", "millions", "billions"))
_ENDING_IN_A = frozenset(
    ("usa", "nba", "fda", "cia", "faa", "mba", "dna", "rna", "nasa", "nsa", "ba", "ma", "la", "pa")
)
_ENDING_IN_I = frozenset(("api", "cgi", "fbi", "gui", "kpi", "mri", "roi"))
_VERBS = frozenset(("am", "m", "don't", "do", "think", "have", "had", "was", "would", "will", "can", "could", "know"))
_SHORT = frozenset(("tv", "pc", "uk", "us", "dj", "cd", "hr", "pr", "vp", "id", "ip"))

Rule = Callable[[Sequence[str], int], tuple[int, str] | None]
"""Words and a start → the end and the written form, or None."""


def forms(words: Sequence[str], sure: Sequence[bool] | None = None, breaks: Sequence[bool] | None = None) -> list[Form]:
    """The numbers among words, as they are written.

    Args:
        words: in lower case, as recognised.
        sure: False for words that may be wrong, which are in no form; None: all are sure.
        breaks: True where a mark or a long pause follows a word, which no form crosses; None: nowhere.

    Returns:
        Forms in order that do not overlap.
    """
    found: list[Form] = []
    limit = len(words)
    at = 0
    while at < limit:
        stop = at
        while stop < limit and (sure is None or sure[stop]):
            stop += 1
            if breaks is not None and breaks[stop - 1]:
                break
        if stop == at:  # an unsure word
            at += 1
            continue
        found += (
            Form(at + form.start, at + form.end, form.text) for form in _stretch(words[at:stop], words[at - 1 : at])
        )
        at = stop
    return found


def _stretch(words: Sequence[str], before: Sequence[str]) -> list[Form]:
    """The forms of words without a break; `before` is the word before them, if there is one."""
    found: list[Form] = []
    at = 0
    while at < len(words):
        for rule in _RULES:
            hit = rule(words, at)
            if hit is not None:
                end, text = hit
                found.append(Form(at, end, text))
                at = end
                break
        else:
            at = _after_numbers(words, at)
    return found


def _after_numbers(words: Sequence[str], at: int) -> int:
    """The next word to look at: number words that no rule takes are left together, not read one by one."""
    end = at + 1
    if is_number_word(words[at]):
        while end < len(words) and is_number_word(words[end]):
            end += 1
    return end


# --- parts ------------------------------------------------------------------------------------------------------------


def _follows(words: Sequence[str], at: int, *options: str) -> bool:
    return at < len(words) and words[at] in options


def _grouped(value: int) -> str:
    return f"{value:,}" if value >= _GROUPED or (value >= 1_000 and value not in _YEARS) else str(value)


def _amount(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """A cardinal with its decimals and "million", of any size: "three point five million" → "3.5 million"."""
    whole = cardinal(words, at)
    if at > 0 and words[at - 1] == "point":
        return None  # "point five percent"
    if whole is None or (words[at] == "a" and (whole.value < _LEAST or whole.value % 100 == 0)):
        return None  # "a hundred", "a million" are said of what is not counted
    end, text = whole.end, _grouped(whole.value)
    if whole.value < 1_000_000 and _follows(words, end, "point"):
        digits = end + 1
        while digits < len(words) and words[digits] in DIGITS:
            digits += 1
        if digits > end + 1 and not (digits < len(words) and words[digits] in (*TENS, *UNDER_TWENTY, "hundred")):
            text += "." + "".join(str(DIGITS[word]) for word in words[end + 1 : digits])
            end = digits
            if _follows(words, end, "million", "billion", "trillion"):
                end, text = end + 1, f"{text} {words[end]}"
        return end, text
    for name, scale in (("trillion", 10**12), ("billion", 10**9), ("million", 10**6)):
        if whole.value >= scale and whole.value % scale == 0:
            return end, f"{_grouped(whole.value // scale)} {name}"
    return end, text


def _year(words: Sequence[str], at: int) -> Number | None:
    """A year in two halves: "nineteen ninety five", "nineteen oh five", "twenty twenty four"."""
    century = under_hundred(words, at)
    if century is None or not 11 <= century.value <= 20 or century.end >= len(words):
        return None
    if words[century.end] == "oh" and century.end + 1 < len(words) and words[century.end + 1] in DIGITS:
        rest: Number | None = Number(century.end + 2, DIGITS[words[century.end + 1]])
    else:
        rest = under_hundred(words, century.end)
        if rest is not None and rest.value < 10:
            rest = None
    if rest is None or (rest.end < len(words) and is_number_word(words[rest.end])):
        return None
    certain = century.value >= 17 and (century.value < 20 or rest.end - century.end > 1 or rest.value == 20)
    if not certain and not (at > 0 and (words[at - 1] in _YEAR_BEFORE or words[at - 1] in MONTHS)):
        return None
    return Number(rest.end, 100 * century.value + rest.value)


def _date_year(words: Sequence[str], at: int) -> Number | None:
    """The year of a date, which may also be said as a cardinal: "two thousand and five"."""
    found = _year(words, at) or cardinal(words, at)
    return found if found is not None and found.value in _YEARS else None


# --- rules ------------------------------------------------------------------------------------------------------------


def _month_first(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Date with the month first: "march fifth nineteen ninety" → "March 5th, 1990"."""
    if words[at] not in MONTHS or (at > 0 and words[at] in ("may", "march") and words[at - 1] in _PRONOUNS):
        return None  # "we may second that"
    day = ordinal(words, at + 1 + _follows(words, at + 1, "the"))
    if day is None or not 1 <= day.value <= 31:
        return None
    text = f"{words[at].capitalize()} {day.value}{suffix(day.value)}"
    year = _date_year(words, day.end)
    sure_month = words[at] != "may" or words[at + 1] == "the" or year is not None
    if (
        not sure_month
        and day.value < 4
        and day.end < len(words)
        and not (at > 0 and words[at - 1] in _YEAR_BEFORE | {"on"})
    ):
        return None  # "symptoms may first appear"
    return (year.end, f"{text}, {year.value}") if year is not None else (day.end, text)


def _day_first(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Date with the day first: "fifth of march nineteen ninety" → "5th of March 1990"."""
    day = ordinal(words, at)
    if day is None or not 1 <= day.value <= 31 or not _follows(words, day.end, "of"):
        return None
    if not _follows(words, day.end + 1, *MONTHS):
        return None
    end, text = day.end + 2, f"{day.value}{suffix(day.value)} of {words[day.end + 1].capitalize()}"
    year = _date_year(words, end)
    return (year.end, f"{text} {year.value}") if year is not None else (end, text)


def _time(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Time of day: "three thirty p m" → "3:30 p.m.", "five o'clock" → "5 o'clock"."""
    hour = under_hundred(words, at)
    if hour is None or not 1 <= hour.value <= 12:
        return None
    if _follows(words, hour.end, "o'clock"):
        return hour.end + 1, f"{hour.value} o'clock"
    minutes, end = "", hour.end
    if _follows(words, end, "oh") and end + 1 < len(words) and words[end + 1] in DIGITS:
        minutes, end = f":0{DIGITS[words[end + 1]]}", end + 2
    elif (minute := under_hundred(words, end)) is not None and 10 <= minute.value < 60:
        minutes, end = f":{minute.value}", minute.end
    for said, written in _MERIDIEMS.items():
        if tuple(words[end : end + len(said)]) == said:
            if said == ("am",) and not minutes and not (at > 0 and words[at - 1] == "at"):
                return None  # "the three am i"
            return end + len(said), f"{hour.value}{minutes} {written}"
    return None


def _money(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Money: "one hundred and twenty dollars" → "$120", "two pounds fifty" → "£2.50"."""
    amount = _amount(words, at)
    if amount is None or not _follows(words, amount[0], *_CURRENCIES):
        return None
    unit, end = words[amount[0]], amount[0] + 1
    text = _CURRENCIES[unit] + amount[1]
    rest = under_hundred(words, end + _follows(words, end, "and"))
    if rest is not None and rest.value and text[-1].isdigit() and "." not in text:
        minor = _follows(words, rest.end, *_MINOR)
        joined = words[end] == "and"
        lone = rest.end == len(words) or words[rest.end] in _AFTER_PRICE  # not "ten dollars thirty days later"
        if minor or (not joined and rest.value >= _LEAST and lone and unit.endswith("s")):
            return rest.end + minor, f"{text}.{rest.value:02d}"
    if unit.startswith("pound"):  # a weight as well
        return None
    return end, text


def _percent(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Percentages and negative numbers: "minus three point five per cent" → "-3.5%"."""
    minus = words[at] == "minus" and not (at > 0 and is_number_word(words[at - 1]))
    amount = _amount(words, at + minus) if at + minus < len(words) else None
    if amount is None:
        return None
    end, text = amount
    if _follows(words, end, "percent") or (_follows(words, end, "per") and _follows(words, end + 1, "cent")):
        return end + 1 + (words[end] == "per"), f"{'-' * minus}{text}%"
    if minus and ("." in text or _follows(words, end, "degrees")):
        return end, f"-{text}"
    return None


def _digits(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Digits said one by one: "double five five oh one two three" → "555-0123"."""
    text, end, repeats = "", at, False
    while end < len(words):
        times = {"double": 2, "triple": 3}.get(words[end], 1)
        if end + (times > 1) >= len(words) or words[end + (times > 1)] not in DIGITS:
            break
        text += str(DIGITS[words[end + (times > 1)]]) * times
        repeats |= times > 1
        end += 1 + (times > 1)
    if end < len(words) and (words[end] in TENS or words[end] in _UNITS):
        return None
    counting = text in "0123456789" or text in "9876543210"
    if len(text) < (_FEW - repeats) or (counting and not repeats):
        return (end, text) if words[at:end] == ["nine", "one", "one"] else None
    if len(text) == 7:
        text = f"{text[:3]}-{text[3:]}"
    elif len(text) == 10:
        text = f"{text[:3]}-{text[3:6]}-{text[6:]}"
    return end, text


def _two_part_year(words: Sequence[str], at: int) -> tuple[int, str] | None:
    year = _year(words, at)
    if year is not None:
        return year.end, str(year.value)
    # "the nineteen nineties" → "the 1990s"
    century = under_hundred(words, at)
    if century is not None and 17 <= century.value <= 20 and century.end < len(words):
        decade = words[century.end].removesuffix("ies") + "y"
        if words[century.end].endswith("ies") and decade in TENS:
            return century.end + 1, f"{100 * century.value + TENS[decade]}s"
    return None


def _ordinal(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Ordinal: "twenty first" → "21st"; the first nine stay in words, and so do fractions."""
    hundreds = cardinal(words, at)
    if hundreds is not None and words[at] != "a" and hundreds.value and hundreds.value % 100 == 0:
        rest = ordinal(words, hundreds.end + _follows(words, hundreds.end, "and"))
        if rest is not None:
            value = hundreds.value + rest.value
            return rest.end, f"{_grouped(value)}{suffix(value)}"
    elif hundreds is not None and hundreds.value > 100 and words[hundreds.end - 1] in TENS:
        ones = ORDINALS.get(words[hundreds.end], _LEAST) if hundreds.end < len(words) else _LEAST
        if ones < _LEAST:  # "two hundred and twenty second"
            return hundreds.end + 1, f"{_grouped(hundreds.value + ones)}{suffix(hundreds.value + ones)}"
    found = ordinal(words, at)
    if found is None or found.value < _LEAST:
        return None
    if at > 0 and (is_number_word(words[at - 1]) or words[at - 1] in ("a", "and")):
        return None
    if words[found.end - 1] == "second" and found.end < len(words) and words[found.end] not in _AFTER_SECOND:
        return None  # "the thirty second delay"
    return found.end, f"{found.value}{suffix(found.value)}"


def _plain(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """A number that stands alone among other words."""
    whole = cardinal(words, at)
    amount = _amount(words, at)
    if amount is None:
        return None
    end, text = amount
    if end < len(words) and (is_number_word(words[end]) or words[end] in ORDINALS or words[end] in _AFTER_NONE):
        return None  # "twenty thirty", "three quarters", "one tenth"
    if end == at + 1 and (whole is None or whole.value < _LEAST):
        return None
    if _follows(words, end, "and") and _follows(words, end + 1, *ORDINALS):
        return None
    return end, text


def _letters(words: Sequence[str], at: int) -> tuple[int, str] | None:
    """Letters that are spelled: "u s" → "US"; the words "a" and "i" stay words."""
    end = at
    while end < len(words) and len(words[end]) == 1 and words[end].isalpha():
        end += 1
    letters = "".join(words[at:end])
    if end < len(words):
        if letters.endswith("i") and len(letters) > 2 and letters not in _ENDING_IN_I:
            letters = letters[:-1]  # "in the u s i think"
        elif (letters.endswith("a") and letters not in _ENDING_IN_A) or (letters == "ai" and words[end] in _VERBS):
            letters = letters[:-1]  # "it has a g a good one"
    if len(letters) < 2 or len(set(letters)) == 1 or (letters[0] == "a" and letters[1:] in _SHORT):
        return None
    if letters.startswith("im") or (
        len(letters) == 2 and letters != "ai" and (letters[0] in "ai" or letters[1] == "i")
    ):
        return None  # a word and a letter
    return at + len(letters), "e.g." if letters == "eg" else letters.upper()


_RULES: tuple[Rule, ...] = (
    _month_first,
    _day_first,
    _time,
    _digits,
    _money,
    _percent,
    _two_part_year,
    _ordinal,
    _plain,
    _letters,
)
