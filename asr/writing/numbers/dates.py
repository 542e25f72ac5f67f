"""Years, dates and times of day."""

from __future__ import annotations

from collections.abc import Sequence

from asr.writing.numbers.cardinals import (
    CURRENCIES,
    DIGITS,
    MONTHS,
    TENS,
    Number,
    Written,
    cardinal,
    follows,
    is_number_word,
    ordinal,
    suffix,
    under_hundred,
)

__all__ = ["day_first", "minutes_past_hour", "month_first", "time_of_day", "year"]

_YEARS = range(1_000, 2_100)
_BEFORE_YEAR = frozenset(
    "in since by of until till from year to before after during early late "
    "summer spring winter autumn fall around".split()
)
_NO_YEAR_BEFORE = (*CURRENCIES, "percent", "per", "degrees", "point", "thousand", "cents")
_PRONOUNS = frozenset(("i", "you", "he", "she", "it", "we", "they", "who", "that", "one"))
_PLURALS = frozenset(("people", "men", "women", "children", "feet", "police"))
_NO_PLURAL = frozenset(
    "was is this his its has as us does yes always perhaps across unless less plus thus versus towards besides "
    "afterwards sometimes".split()
)

_MERIDIEMS = {("a", "m"): "a.m.", ("p", "m"): "p.m.", ("pm",): "p.m.", ("am",): "a.m."}
_OFTEN_BEFORE_TIME = ("by", "before", "after", "since", "from", "between", "it's")
_MAY_PRECEDE_TIME = ("for", "about", "around", "today", "tonight", "tomorrow", "is")
_SCHEDULED = ("train", "bus", "flight", "ferry", "plane", "show", "service", "meeting", "appointment", "class", "news")
_ALWAYS_BEFORE_TIME = ("at", "until", "till")
_AFTER_TIME = frozenset(
    "tonight today tomorrow yesterday sharp this on in and to or but when for the i we he she they you it is was so "
    "because with every monday tuesday wednesday thursday friday saturday sunday eastern pacific local if then please "
    "would will there that until till as at from".split()
)
_DAYTIMES = (("in", "the", "morning"), ("in", "the", "afternoon"), ("in", "the", "evening"), ("at", "night"))


def _is_plural(words: Sequence[str], at: int) -> bool:
    """Whether the word at a position looks like a noun in the plural: "people", "soldiers"."""
    if at >= len(words):
        return False
    word = words[at]
    return word in _PLURALS or (
        len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "'s")) and word not in _NO_PLURAL
    )


# --- years ------------------------------------------------------------------------------------------------------------


def _year_in_halves(words: Sequence[str], at: int) -> Number | None:
    """A year in two halves: "nineteen ninety five", "nineteen oh five", "twenty twenty four"."""
    century = under_hundred(words, at)
    if century is None or not 10 <= century.value <= 20 or century.end >= len(words):
        return None
    if words[century.end] == "oh" and century.end + 1 < len(words) and words[century.end + 1] in DIGITS:
        rest: Number | None = Number(century.end + 2, DIGITS[words[century.end + 1]])
    else:
        rest = under_hundred(words, century.end)
        if rest is not None and rest.value < 10:
            rest = None
    if rest is None or (rest.end < len(words) and (is_number_word(words[rest.end]))):
        return None
    if follows(words, rest.end, *_NO_YEAR_BEFORE):
        return None  # "nineteen ninety five dollars" may be $19.95
    is_certain = century.value >= 17 and (century.value < 20 or rest.end - century.end > 1 or rest.value == 20)
    before = words[at - 1] if at > 0 else ""
    could_be_time = century.value <= 12 and rest.value < 60
    is_introduced = before in MONTHS or before in (("in", "year") if could_be_time else _BEFORE_YEAR)
    return Number(rest.end, 100 * century.value + rest.value) if is_certain or is_introduced else None


def _year_as_cardinal(words: Sequence[str], at: int) -> Number | None:
    """A year said as a cardinal: "two thousand and five", "in two thousand"; not "two thousand people"."""
    found = cardinal(words, at)
    if found is None or found.value not in _YEARS or words[at] == "a" or _is_plural(words, found.end):
        return None
    if found.end < len(words) and (is_number_word(words[found.end]) or words[found.end] in _NO_YEAR_BEFORE):
        return None
    is_introduced = at > 0 and (words[at - 1] in _BEFORE_YEAR or words[at - 1] in MONTHS)
    # "eighteen hundred twelve"
    has_rest = follows(words, at + 1, "hundred") and found.value >= 1_700 and found.value % 100
    is_1900 = list(words[at : found.end]) == ["nineteen", "hundred"]
    return found if is_introduced or found.value > 2_000 or has_rest or is_1900 else None


def _year_after_day(words: Sequence[str], at: int) -> Number | None:
    """The year after a day."""
    found = _year_in_halves(words, at) or cardinal(words, at)
    return found if found is not None and found.value in _YEARS else None


def year(words: Sequence[str], at: int) -> Written | None:
    """Years and their decades and centuries: "nineteen ninety five", "the nineteen nineties" → "the 1990s"."""
    found = _year_in_halves(words, at) or _year_as_cardinal(words, at)
    if found is not None:
        return Written(found.end, str(found.value))
    century = under_hundred(words, at)
    if century is None or not 11 <= century.value <= 20 or century.end >= len(words):
        return None
    plural = words[century.end]
    if plural == "hundreds":
        return Written(century.end + 1, f"{century.value}00s")
    if plural == "tens" and century.value >= 17:
        return Written(century.end + 1, f"{century.value}10s")
    decade = plural.removesuffix("ies") + "y"
    if plural.endswith("ies") and decade in TENS and century.value >= 17:
        return Written(century.end + 1, f"{100 * century.value + TENS[decade]}s")
    return None


# --- dates ------------------------------------------------------------------------------------------------------------


def month_first(words: Sequence[str], at: int) -> Written | None:
    """Date with the month first: "march fifth nineteen ninety" → "March 5th, 1990", "march nineteen ninety"."""
    if words[at] not in MONTHS or (at > 0 and words[at] in ("may", "march") and words[at - 1] in _PRONOUNS):
        return None  # "we may second that"
    month = words[at].capitalize()
    day = ordinal(words, at + 1 + follows(words, at + 1, "the"))
    if day is None or not 1 <= day.value <= 31:
        return _month_and_year(words, at)
    text = f"{month} {day.value}{suffix(day.value)}"
    found = _year_after_day(words, day.end)
    is_month = words[at] != "may" or words[at + 1] == "the" or found is not None or _introduces_date(words, at)
    if not is_month and day.value < 4 and day.end < len(words):
        return None  # "symptoms may first appear"
    return Written(found.end, f"{text}, {found.value}") if found is not None else Written(day.end, text)


def _introduces_date(words: Sequence[str], at: int) -> bool:
    """Whether the word before a position often stands before a date."""
    return at > 0 and (words[at - 1] in _BEFORE_YEAR or words[at - 1] == "on")


def _month_and_year(words: Sequence[str], at: int) -> Written | None:
    """Date without an ordinal: "march nineteen ninety five" → "March 1995", "june six nineteen ninety"."""
    if words[at] == "may" and not _introduces_date(words, at):
        return None
    month = words[at].capitalize()
    day = under_hundred(words, at + 1)
    if day is not None and 1 <= day.value <= 31 and (found := _year_after_day(words, day.end)) is not None:
        return Written(found.end, f"{month} {day.value}, {found.value}")
    found = _year_in_halves(words, at + 1) or _year_as_cardinal(words, at + 1)
    return Written(found.end, f"{month} {found.value}") if found is not None else None


def day_first(words: Sequence[str], at: int) -> Written | None:
    """Date with the day first: "fifth of march nineteen ninety" → "5th of March 1990"."""
    day = ordinal(words, at)
    if day is None or not 1 <= day.value <= 31 or not follows(words, day.end, "of"):
        return None
    if not follows(words, day.end + 1, *MONTHS):
        return None
    end, text = day.end + 2, f"{day.value}{suffix(day.value)} of {words[day.end + 1].capitalize()}"
    found = _year_after_day(words, end)
    return Written(found.end, f"{text} {found.value}") if found is not None else Written(end, text)


# --- times of day -----------------------------------------------------------------------------------------------------


def time_of_day(words: Sequence[str], at: int) -> Written | None:
    """Time of day: "three thirty p m" → "3:30 p.m.", "five o'clock" → "5 o'clock", "at seven forty five" → 7:45."""
    hour = under_hundred(words, at)
    if hour is None or not 1 <= hour.value <= 23 or (at > 0 and is_number_word(words[at - 1])):
        return None
    if hour.value > 12 and not follows(words, at - 1, "at"):
        return None
    if follows(words, hour.end, "o'clock"):
        return Written(hour.end + 1, f"{hour.value} o'clock")
    minutes, end = "", hour.end
    if follows(words, end, "oh") and end + 1 < len(words) and words[end + 1] in DIGITS:
        minutes, end = f":0{DIGITS[words[end + 1]]}", end + 2
    elif (minute := under_hundred(words, end)) is not None and 10 <= minute.value < 60:
        minutes, end = f":{minute.value}", minute.end
    for said, written in _MERIDIEMS.items():
        if tuple(words[end : end + len(said)]) == said:
            if said == ("am",) and not minutes and not follows(words, at - 1, "at"):
                return None  # "the three am i"
            return Written(end + len(said), f"{hour.value}{minutes} {written}")
    if minutes and _is_time(words, at, end, int(minutes[1:])):
        return Written(end, f"{hour.value}{minutes}")
    return None


def _is_time(words: Sequence[str], start: int, end: int, minute: int) -> bool:
    """Whether the words around two numbers show that they are a time."""
    if any(tuple(words[end : end + len(daytime)]) == daytime for daytime in _DAYTIMES):
        return True
    before = words[start - 1] if start > 0 else ""
    if before == "the" and minute % 5 == 0 and follows(words, end, *_SCHEDULED):
        return True  # "the nine thirty train"
    if end < len(words) and words[end] not in _AFTER_TIME:
        return False
    if follows(words, end, "tonight", "tomorrow", "today", "sharp") or before in _ALWAYS_BEFORE_TIME:
        return True
    if before in ("about", "around") and follows(words, start - 2, "at"):
        return True
    if before in ("to", "and") and start > 1 and is_number_word(words[start - 2]):
        before = "until"  # "from two fifteen to three thirty"
    return (minute % 5 == 0 and before in (*_OFTEN_BEFORE_TIME, "until")) or (
        minute in (15, 30, 45) and before in _MAY_PRECEDE_TIME
    )


def minutes_past_hour(words: Sequence[str], at: int) -> Written | None:
    """Minutes and an hour stay in words: "half past eleven", "ten past twelve", "at twenty to five"."""
    minute = under_hundred(words, at)
    if minute is None:
        return None
    if follows(words, at - 1, "past", "to") and follows(words, at - 2, "half", "quarter") and minute.value <= 12:
        return Written(minute.end, None)
    if minute.value not in (5, 10, 20, 25):
        return None
    to = follows(words, minute.end, "to") and follows(words, at - 1, "at", "it's", "is", "until", "till")
    hour = under_hundred(words, minute.end + 1) if to or follows(words, minute.end, "past") else None
    return Written(hour.end, None) if hour is not None and 1 <= hour.value <= 12 else None
