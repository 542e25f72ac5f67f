"""Words of events to units: what was spoken, how it is written, and the mark after it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from asr.transcript import Word
from asr.writing.parts import MARKS
from streaming.dictation.field import Unit

__all__ = ["unit", "units"]

_ENDS = (".", "?", "!")
_ABBREVIATION = re.compile(r"[^\W\d]\.[^\W\d]\.$")  # "p.m." keeps its point


def units(words: Sequence[Word]) -> list[Unit]:
    """The units of an utterance's words, whether these are written or spoken."""
    found: list[Unit] = []
    begins = True
    for word in words:
        found.append(unit(word.text, begins))
        begins = found[-1].mark in _ENDS
    return found


def unit(written: str, begins: bool = False, spoken: Sequence[str] | None = None) -> Unit:
    """A unit of text with its mark: "Paris," → Paris and a comma.

    Args:
        written: the text as it is written.
        begins: whether it begins a sentence.
        spoken: its words; None: the text itself in lower case, without the mark.
    """
    written = unicodedata.normalize("NFC", "".join(c for c in written if unicodedata.category(c) != "Cc"))
    text, mark = written, ""
    if len(written) > 1 and written[-1] in MARKS and not _ABBREVIATION.search(written):
        text, mark = written[:-1].rstrip(), written[-1]
    words = tuple(text.lower().split()) if spoken is None else tuple(spoken)
    return Unit(words, text, mark, begins)
