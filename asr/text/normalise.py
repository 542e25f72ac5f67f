"""Text normalisation: the only conversion of written text to the text used in training and scoring.

`fold` makes texts comparable. `normalise` is `fold` for training text, and None where something would be lost. `fold`
begins with `plain`: lower case, and ASCII wherever a character has an ASCII form. It ends with `modernise`: old
spellings that sound like today's become modern.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

__all__ = ["Normaliser", "fold", "modernise", "normalise", "normaliser", "plain"]

Normaliser = Literal["plain", "whisper"]

_WORD = re.compile(r"(?:[a-z0-9']|[^\x00-\x7f])+")
_LOST = re.compile(r"[0-9]|[^\x00-\x7f]")  # digits, and characters without an ASCII form

# Used as apostrophes: left, right and reversed quotes, modifier letters, acute, grave, primes, saltillo.
_APOSTROPHES = str.maketrans(dict.fromkeys("‘’‛ʼʻʽʹ´`′‵ꞌ＇", "'"))
_SILENT = str.maketrans(dict.fromkeys("™®©℠"))
# Latin letters without a Unicode decomposition into a base letter and a mark.
_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ı": "i"}
)

# Old spelling → modern spelling of the same sound, in normalised text. Guards exclude cases that are still two words.
_OLD_SPELLINGS = tuple(
    (re.compile(rf"(?<![a-z']){old}(?![a-z])"), new)
    for old, new in (
        (r"to morrow", "tomorrow"),
        (r"(?<!day )(?<!night )(?<!morning )(?<!evening )to (day|night)", r"to\1"),  # "day to day", "from day to night"
        (r"for ever(?! so | since )", "forever"),
        (r"(any|every|some) one(?! (?:of|or|thing|man|woman|person|day|time|place|word|point|way|kind)\b)", r"\1one"),
        (r"(any|every|some|no) body(?! of\b)", r"\1body"),
        (r"(any|every) thing", r"\1thing"),
        (r"(any|every|some|no|else) where", r"\1where"),
        (r"some (how|times)", r"some\1"),
        (r"any how", "anyhow"),
        (r"mean while", "meanwhile"),
        (r"now a days", "nowadays"),
        (r"(up|down) stairs", r"\1stairs"),
        (r"can not", "cannot"),
        (r"good bye", "goodbye"),
        (r"connexion(s?)", r"connection\1"),
        (r"shew(s|n|ed|ing)?", r"show\1"),
        (r"waggon(s?)", r"wagon\1"),
        (r"gaol(s|er|ers)?", r"jail\1"),
    )
)


def normalise(text: str) -> str | None:
    """Lower case a-z, apostrophes within words and single spaces: "Café, to-day!" → "cafe today".

    - Case, accents, ligatures and compatibility forms are folded, see `plain`.
    - Punctuation and dashes separate words; an apostrophe stays inside a word and in a plural's s'.
    - `&` becomes "and", `&c.` "et cetera".
    - Old spellings become modern, see `modernise`.

    Returns:
        None if the text has no word, or has digits, symbols or letters of another script, which would be lost.
    """
    folded = fold(text)
    return None if _LOST.search(folded) else folded or None


def fold(text: str) -> str:
    """`normalise` for text that must be scored in any case: digits and characters of other scripts are kept."""
    text = re.sub(r"&c\b\.?", " et cetera ", plain(text)).replace("&", " and ").replace("-", " ")
    words = (w.lstrip("'") for w in _WORD.findall(text))
    words = (w if w.endswith("s'") and len(w) > 2 else w.rstrip("'") for w in words)
    return modernise(" ".join(w for w in words if w))


def plain(text: str) -> str:
    """Lower case, and ASCII wherever a character has an ASCII form.

    - Every kind of apostrophe becomes ', including free-standing grave and acute accents.
    - Ligatures, full-width and other compatibility letters are decomposed (NFKD), except symbols such as ½ or №.
    - Diacritics are removed from Latin letters (é → e); ß, æ, ø and similar letters are spelled out.
    - Punctuation and spaces outside ASCII become spaces; invisible characters and the signs ™ ® © ℠ are removed.

    Remaining characters outside ASCII have no such form: letters of other scripts, symbols, emoji.
    """
    text = text.translate(_APOSTROPHES).translate(_SILENT)
    if text.isascii():
        return text.lower()
    decomposed = "".join(c if _is_symbol(c) else unicodedata.normalize("NFKD", c) for c in text)
    letters: list[str] = []
    for letter in decomposed.lower().translate(_LETTERS):
        kind = unicodedata.category(letter)
        if letter.isascii():
            letters.append(letter)
        elif kind[0] in "PZ":
            letters.append(" ")
        elif kind != "Cf" and not (kind == "Mn" and letters and letters[-1].isascii() and letters[-1].isalpha()):
            letters.append(letter)
    return unicodedata.normalize("NFC", "".join(letters))


def modernise(text: str) -> str:
    """Normalised text with the spellings of older books made modern: "to morrow" → "tomorrow", "any one" → "anyone".

    Novels and their transcripts have "to-morrow", "for ever" and "every thing" where speech recognition systems write
    one word. Only pairs that sound like the modern word are joined, so that a score never hides a wrong word. Pairs
    that are still two words stay: "day to day", "any one of them".
    """
    for old, new in _OLD_SPELLINGS:
        text = old.sub(new, text)
    return text


def normaliser(name: Normaliser) -> Callable[[str], str]:
    """The function that normalises both sides of a comparison.

    - plain: `fold`.
    - whisper: Whisper's English normaliser (Radford et al. 2022, appendix C), for comparison with published scores:
      numbers become digits, contractions and spellings are unified, "uh" and bracketed text are removed.

    Raises:
        ModuleNotFoundError: the package whisper-normalizer, of the extra `evaluate`, is missing.
    """
    if name == "plain":
        return fold
    from whisper_normalizer.english import EnglishTextNormalizer

    english = EnglishTextNormalizer()
    return lambda text: str(english(text)).strip()


def _is_symbol(character: str) -> bool:
    """Whether it is a symbol or number sign, whose compatibility form differs from its reading ("½" → "1⁄2")."""
    return unicodedata.category(character) in ("So", "No")
