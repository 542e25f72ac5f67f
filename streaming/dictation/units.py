"""Conversion of words in events to units: spoken words, their written form, and the mark after them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from asr.transcript import Segment, Word
from asr.writing.parts import MARKS, SENTENCE_ENDS
from asr.writing.writer import Context, Names, Writer
from streaming.dictation.field import Unit
from streaming.events import Event, Final

__all__ = ["Said", "said", "unit", "units"]

_ABBREVIATION = re.compile(r"[^\W\d]\.[^\W\d]\.$")  # "p.m." keeps its point


class Said(NamedTuple):
    """The certain part of the open utterance, and whether the utterance is finished."""

    units: list[Unit]
    final: bool


def said(events: Iterable[Event], writer: Writer | None = None, names: Names | None = None) -> Iterator[Said]:
    """The content of a stream's events: the committed words of a partial, all words of a final.

    Args:
        events: the events of one stream.
        writer: adds capitals, marks and digits; None: words stay as recognised.
        names: words with a given spelling.
    """
    context = Context()
    for event in events:
        final = isinstance(event, Final)
        segment = event.segment.as_spoken() if isinstance(event, Final) else _segment(event.committed)
        after = context
        if writer is not None and segment.words:
            ((segment, after),) = writer.write([segment], [context], [names])
        found = units(segment.words, segment.spoken_words)
        if final:
            context = after
        elif found:
            found[-1] = replace(found[-1], mark="")  # the words after it are unknown
        yield Said(found, final)


def _segment(words: Sequence[Word]) -> Segment:
    start, end = (words[0].start_seconds, words[-1].end_seconds) if words else (0.0, 0.0)
    return Segment(" ".join(word.text for word in words), start, end, 0.0, tuple(words))


def units(words: Sequence[Word], spoken: Sequence[Word] = ()) -> list[Unit]:
    """The units of an utterance.

    Args:
        words: its words, written or spoken.
        spoken: for written words, the words as recognised; a written word ends at the same time as its last spoken one.
    """
    found: list[Unit] = []
    begins, at = True, 0
    for number, word in enumerate(words):
        own = None
        if spoken:
            ends = (i for i in range(at, len(spoken)) if spoken[i].end_seconds >= word.end_seconds)
            after = len(spoken) if number == len(words) - 1 else next(ends, len(spoken) - 1) + 1
            own, at = [one.text.lower() for one in spoken[at:after]], after
        found.append(unit(word.text, begins, own))
        begins = found[-1].mark in SENTENCE_ENDS
    pauses = [max(0.0, after.start_seconds - word.end_seconds) for word, after in pairwise(words)]
    return [replace(one, pause=pause) for one, pause in zip(found, [*pauses, 0.0], strict=False)]


def unit(written: str, begins: bool = False, spoken: Sequence[str] | None = None) -> Unit:
    """A unit of text with its mark: "Paris," → Paris and a comma.

    Args:
        written: text in written form.
        begins: whether it begins a sentence.
        spoken: its words; None: the text itself in lower case, without the mark.
    """
    written = unicodedata.normalize("NFC", "".join(c for c in written if unicodedata.category(c) != "Cc"))
    text, mark = written, ""
    if len(written) > 1 and written[-1] in MARKS and not _ABBREVIATION.search(written):
        text, mark = written[:-1].rstrip(), written[-1]
    words = tuple(text.lower().split()) if spoken is None else tuple(spoken)
    return Unit(words, text, mark, begins)
