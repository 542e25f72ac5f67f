"""Counts, decimals, percentages, money and ordinals."""

from __future__ import annotations

from collections.abc import Sequence

from asr.writing.numbers.cardinals import (
    CURRENCIES,
    DIGITS,
    ORDINALS,
    TENS,
    UNDER_TWENTY,
    Figures,
    Number,
    Written,
    cardinal,
    follows,
    is_number_word,
    ordinal,
    suffix,
    under_hundred,
)

__all__ = ["LEAST_IN_FIGURES", "age_as_noun", "count", "first_of_range", "money", "ordinal_number", "percentage"]

LEAST_IN_FIGURES = 10
"""Smaller numbers stay in words, by the usual style rule."""

_SMALL_COINS = ("cents", "pence", "p")
_AFTER_PRICE = frozenset("a an and at but each for in is on or per please to was".split())
_ROUND_ORDINALS = {"hundredth": 100, "thousandth": 1_000}
_POSSESSIVES = ("the", "his", "her", "its", "their", "our", "my", "your")
_AFTER_SECOND = frozenset(("amendment", "avenue", "birthday", "century", "floor", "president", "street"))
_NO_COUNT_BEFORE = frozenset(("oh", "point", "tens", "hundreds", "thousands", "millions", "billions", "something"))
_BEFORE_FRACTION = frozenset(
    "about above almost and around at below by is just nearly of only or over plus than to under was".split()
)
_BEFORE_NEGATIVE = ("is", "it's", "was", "to", "of", "below", "at")
_MILLIONS = {"million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS: dict[tuple[str, ...], str] = {
    ("and", "a", "half"): ".5",
    ("and", "a", "quarter"): ".25",
    ("and", "three", "quarters"): ".75",
}
_PERSONS = ("people", "adults", "children", "women", "men", "americans", "students", "patients", "voters")
_UNITS = frozenset(
    ("byte", "gram", "hertz", "joule", "newton", "ohm", "pixel", "volt", "watt", "decibel", "millimetre", "millimeter")
)
_PREFIXES = ("micro", "milli", "kilo", "mega", "giga", "tera")
_SCALED = frozenset("bit byte gram hertz joule litre liter pascal pixel second ton volt watt amp".split())
_MEASURES = frozenset(
    "seconds minutes hours days weeks months years times people degrees percent feet inches miles metres meters "
    "kilometres kilometers pounds dollars euros".split()
)


def _amount(words: Sequence[str], at: int) -> Figures | None:
    """A cardinal with its decimals and "million", of any size: "three point five million" → "3.5 million"."""
    nought = words[at] in ("nought", "naught") and follows(words, at + 1, "point")
    whole = Number(at + 1, 0) if nought else cardinal(words, at)
    if whole is None or follows(words, at - 1, "point"):
        return None  # "this point five of us missed"
    end, text = whole.end, f"{whole.value:,}"
    if words[at] == "a" and (whole.value < LEAST_IN_FIGURES or whole.value % 100 == 0) and not _is_percent(words, end):
        return None  # "a hundred", "a million" are often vague
    if whole.value >= 10**6:
        for name, scale in reversed(_MILLIONS.items()):
            if whole.value >= scale and whole.value % scale == 0:
                return Figures(end, f"{whole.value // scale:,} {name}")
        return Figures(end, text)
    decimals = _decimals(words, end) or _fraction(words, end)
    if decimals is None:
        return Figures(end, text)
    end, digits = decimals
    if follows(words, end, *_MILLIONS):
        return Figures(end + 1, f"{text}{digits} {words[end]}")
    return Figures(end, text + digits)


def _decimals(words: Sequence[str], at: int) -> Figures | None:
    """Decimals after a whole number: "point one four" → ".14", "point seventy five" → ".75", "point two point one"."""
    text = ""
    while follows(words, at, "point"):
        end = at + 1
        while end < len(words) and words[end] in DIGITS:
            end += 1
        digits = "".join(str(DIGITS[word]) for word in words[at + 1 : end])
        if not digits and (tens := under_hundred(words, end)) is not None:
            end, digits = tens.end, str(tens.value)
        if not digits or follows(words, end, *TENS, *UNDER_TWENTY, "hundred"):
            break
        at, text = end, f"{text}.{digits}"
    return Figures(at, text) if text else None


def _fraction(words: Sequence[str], at: int) -> Figures | None:
    """A half or quarter after a whole number, of a million or per cent: "and a half" → ".5"."""
    decimals = _PARTS.get(tuple(words[at : at + 3]))
    if decimals is None or not (follows(words, at + 3, *_MILLIONS) or _is_percent(words, at + 3)):
        return None
    return Figures(at + 3, decimals)


def _is_percent(words: Sequence[str], at: int) -> bool:
    return follows(words, at, "percent") or (follows(words, at, "per") and follows(words, at + 1, "cent"))


def money(words: Sequence[str], at: int) -> Written | None:
    """Money: "one hundred and twenty dollars" → "$120", "two pounds fifty" → "£2.50"."""
    a_unit = words[at] == "a" and follows(words, at + 1, "dollar", "pound", "euro")  # "a dollar fifty"
    amount = Figures(at + 1, "1") if a_unit else _amount(words, at)
    if amount is None or not follows(words, amount.end, *CURRENCIES):
        return None
    unit, end = words[amount.end], amount.end + 1
    text = CURRENCIES[unit] + amount.text
    rest = under_hundred(words, end + follows(words, end, "and"))
    if rest is not None and rest.value and text[-1].isdigit() and "." not in text:
        coins = follows(words, rest.end, *_SMALL_COINS)
        has_and = words[end] == "and"
        ends_price = rest.end == len(words) or words[rest.end] in _AFTER_PRICE  # not "ten dollars thirty days later"
        agrees = unit.endswith("s") or amount.text == "1"
        if coins or (not has_and and rest.value >= LEAST_IN_FIGURES and ends_price and agrees):
            return Written(rest.end + coins, f"{text}.{rest.value:02d}")
    if a_unit:
        return None
    if not unit.startswith("pound"):
        return Written(end, text)
    return Written(end + 1, text) if follows(words, end, "sterling") else None  # pounds may be a weight


def percentage(words: Sequence[str], at: int) -> Written | None:
    """Percentages and negative numbers: "minus three point five per cent" → "-3.5%", "point five percent" → "0.5%"."""
    minus = words[at] in ("minus", "negative") and not (at > 0 and is_number_word(words[at - 1]))
    minus &= not (follows(words, at - 1, "or") and follows(words, at - 2, "plus"))
    if words[at] == "point" and (at == 0 or words[at - 1] in _BEFORE_FRACTION):
        decimals = _decimals(words, at)
        if decimals is None or not (_is_percent(words, decimals.end) or follows(words, decimals.end, *_MILLIONS)):
            return None
        amount: Figures | None = Figures(decimals.end, "0" + decimals.text)
    else:
        amount = _amount(words, at + minus) if at + minus < len(words) else None
    if amount is None:
        return None
    end, text = amount
    if _is_percent(words, end):
        return Written(end + 1 + (words[end] == "per"), f"{'-' * minus}{text}%")
    if words[at] == "point" and follows(words, end, *_MILLIONS):
        return Written(end + 1, f"{text} {words[end]}")
    ends_number = end == len(words) or not is_number_word(words[end])
    is_sign = follows(words, at - 1, *_BEFORE_NEGATIVE) and words[at] == "minus" and ends_number
    if minus and ("." in text or is_sign or follows(words, end, "degrees")):
        return Written(end, f"-{text}")
    return None


def first_of_range(words: Sequence[str], at: int) -> Written | None:
    """A small number beside a larger one: "between five and fifteen" → 5, "two to three percent" → 2.

    Also pairs such as "eight by ten", "nine out of ten", "one in ten people", "five foot eleven".
    """
    first = under_hundred(words, at)
    if first is None or first.end >= len(words):
        return None
    joint = words[first.end]
    out_of = joint == "out" and follows(words, first.end + 1, "of")
    second = under_hundred(words, first.end + 1 + out_of)
    if second is None:
        return None
    is_range = follows(words, at - 1, "between" if joint == "and" else "from")
    is_large = second.value >= LEAST_IN_FIGURES or follows(words, second.end, "hundred", "thousand")
    if out_of or joint in ("by", "in", "foot", "feet"):
        is_pair = joint != "in" or follows(words, second.end, *_PERSONS)
        return Written(first.end, str(first.value)) if is_pair and first.value < LEAST_IN_FIGURES and is_large else None
    if joint not in ("and", "to"):
        return None
    if first.value >= LEAST_IN_FIGURES:  # also "won twenty one to seven"
        is_range |= joint == "to" and (second.end == len(words) or words[second.end] in _AFTER_PRICE)
        if not is_range or is_large or follows(words, second.end, "point", "percent", *ORDINALS):
            return None
        return Written(second.end, f"{first.value} {joint} {second.value}")
    is_measure = _is_percent(words, second.end) or (is_large and follows(words, second.end, *_MEASURES))
    if (is_range and is_large) or (joint == "to" and is_measure):
        return Written(first.end, str(first.value))
    return None


def _is_measured(words: Sequence[str], at: int) -> bool:
    """Whether a technical unit follows, before which even small numbers are digits; "five miles" stays in words."""
    if follows(words, at, "degrees"):
        return follows(words, at + 1, "celsius", "fahrenheit")
    if at >= len(words):
        return False
    unit = words[at].removesuffix("s")
    return unit in _UNITS or any(unit.startswith(p) and unit.removeprefix(p) in _SCALED for p in _PREFIXES)


def age_as_noun(words: Sequence[str], at: int) -> Written | None:
    """An age that is an adjective or a noun: "twenty five year old" → "25-year-old"."""
    years = cardinal(words, at)
    if years is None or years.value < LEAST_IN_FIGURES or not follows(words, years.end, "year", "month", "week", "day"):
        return None
    if not follows(words, years.end + 1, "old", "olds"):
        return None
    return Written(years.end + 2, f"{years.value:,}-{words[years.end]}-{words[years.end + 1]}")


def ordinal_number(words: Sequence[str], at: int) -> Written | None:
    """Ordinal: "twenty first" → "21st"; the first nine stay in words, and so do fractions."""
    hundreds = cardinal(words, at)
    if hundreds is not None and words[at] != "a" and hundreds.value and hundreds.value % 100 == 0:
        rest = ordinal(words, hundreds.end + follows(words, hundreds.end, "and"))
        if rest is not None:
            value = hundreds.value + rest.value
            return Written(rest.end, f"{value:,}{suffix(value)}")
    elif hundreds is not None and hundreds.value > 100 and words[hundreds.end - 1] in TENS:
        ones = ORDINALS.get(words[hundreds.end], LEAST_IN_FIGURES) if hundreds.end < len(words) else LEAST_IN_FIGURES
        if ones < LEAST_IN_FIGURES:  # "two hundred and twenty second"
            return Written(hundreds.end + 1, f"{hundreds.value + ones:,}{suffix(hundreds.value + ones)}")
    is_round = hundreds is not None and follows(words, hundreds.end, *_ROUND_ORDINALS)
    if hundreds is not None and is_round and follows(words, at - 1, *_POSSESSIVES):
        value = hundreds.value * _ROUND_ORDINALS[words[hundreds.end]]
        return Written(hundreds.end + 1, f"{value:,}th")
    found = ordinal(words, at)
    if found is None or found.value < LEAST_IN_FIGURES:
        return None
    if at > 0 and (is_number_word(words[at - 1]) or words[at - 1] in ("a", "and")):
        return None
    if words[found.end - 1] == "second" and found.end < len(words) and words[found.end] not in _AFTER_SECOND:
        return None  # "the thirty second delay"
    return Written(found.end, f"{found.value}{suffix(found.value)}")


def count(words: Sequence[str], at: int) -> Written | None:
    """A number that stands alone among other words."""
    amount = _amount(words, at)
    if amount is None:
        return None
    end, text = amount
    if end < len(words) and (is_number_word(words[end]) or words[end] in ORDINALS or words[end] in _NO_COUNT_BEFORE):
        return None  # "twenty thirty", "three quarters", "one tenth"
    if end == at + 1 and len(text) == 1 and not _is_measured(words, end):
        return None
    if follows(words, end, "and") and follows(words, end + 1, *ORDINALS):
        return None
    after = words[end + 1] if end + 1 < len(words) else ""
    if follows(words, end, "k") and not after.startswith("k") and (len(after) != 1 or after == "a"):
        return Written(end + 1, f"{text}K")  # unless it is a spelled or stammered letter: "k know"
    return Written(end, text)
