"""Conversion of spoken words to written text: names, numbers, capitals and punctuation, with times and confidences.

The state of a stream between its segments is a `Context`, which is passed in and returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, Protocol

from asr.transcript import Segment, Word
from asr.writing import numbers
from asr.writing.parts import CONTEXT_WORDS, PARTIAL_CONTEXT_WORDS, SENTENCE_ENDS, Form, Tag, Tagger, Utterance

__all__ = ["Context", "Names", "Writer"]

_BREAK_SECONDS = 0.5  # a pause this long ends a number
# Least confidence of each word in a number. Of 3,124 words of held-out speech (85 % right), 13 % are below it: 43 % of
# the wrong words and 8 % of the right ones. A limit of 0.5 would exclude 18 % of the right words, and so leave every
# third number of two words unconverted.
_SURE_CONFIDENCE = 0.3


class Names(Protocol):
    """Finds words whose spelling was given, such as hotwords."""

    def forms(self, words: Sequence[str]) -> list[Form]:
        """The forms of the names in `words`, in order, not overlapping."""


class Context(NamedTuple):
    """Context of a segment: the text before it in its stream or file.

    Args:
        words: the last spoken words.
        sentence_open: whether the next word continues a sentence.
    """

    words: tuple[str, ...] = ()
    sentence_open: bool = False

    def after(self, spoken: Sequence[str]) -> Context:
        """The context with the words of the segment appended."""
        return self._replace(words=(*self.words, *spoken)[-CONTEXT_WORDS:])


class Writer:
    """Writes the segments of any number of streams and files; it keeps no state.

    Args:
        tagger: finds capitals and punctuation; None: only names and numbers are converted.
    """

    def __init__(self, tagger: Tagger | None = None) -> None:
        self._tagger = tagger

    def write(
        self, segments: Sequence[Segment], contexts: Sequence[Context], names: Sequence[Names | None] | None = None
    ) -> list[tuple[Segment, Context]]:
        """Write one finished segment of each of several streams, as one batch.

        Args:
            segments: as they were recognised.
            contexts: the context of each, `Context()` at the start of a stream.
            names: the names of each stream; None: none has any.

        Returns:
            For each stream, the written segment and the context for its next one.
        """
        spoken = [_Spoken.of(segment) for segment in segments]
        tags = self._tags([s.utterance(c) for s, c in zip(spoken, contexts, strict=True)])
        written = []
        for row, (segment, own, context) in enumerate(zip(segments, spoken, contexts, strict=True)):
            words, is_open = _written_words(own, tags[row], context, names[row] if names else None)
            written.append((_as_written(segment, words), context.after(own.texts)._replace(sentence_open=is_open)))
        return written

    def write_all(self, segments: Sequence[Segment], names: Names | None = None) -> list[Segment]:
        """Write the segments of one source, in order, as one batch; equals `write` for one segment at a time."""
        spoken = [_Spoken.of(segment) for segment in segments]
        contexts = [Context()]
        for own in spoken[:-1]:
            contexts.append(contexts[-1].after(own.texts))
        tags = self._tags([s.utterance(c) for s, c in zip(spoken, contexts, strict=False)])

        written, is_open = [], False
        for segment, own, tag, context in zip(segments, spoken, tags, contexts, strict=False):
            words, is_open = _written_words(own, tag, context._replace(sentence_open=is_open), names)
            written.append(_as_written(segment, words))
        return written

    def partial(
        self, words: Sequence[Sequence[Word]], contexts: Sequence[Context], names: Sequence[Names | None] | None = None
    ) -> list[str]:
        """The written text of unfinished segments, one per stream, as one batch; it may still change.

        Args:
            words: the words recognised so far in each segment.
            contexts, names: as for `write`.
        """
        spoken = [_Spoken.timed(row) for row in words]
        tags = self._tags([s.utterance(c, final=False) for s, c in zip(spoken, contexts, strict=True)])
        rows = zip(spoken, tags, contexts, names or [None] * len(spoken), strict=True)
        return [" ".join(_texts(_written_words(*row)[0])) for row in rows]

    def _tags(self, utterances: list[Utterance]) -> list[list[Tag] | None]:
        """The tags of each utterance; None where there is no tagger or no word."""
        tags: list[list[Tag] | None] = [None] * len(utterances)
        rows = [row for row, utterance in enumerate(utterances) if utterance.words]
        if self._tagger is not None and rows:
            for row, found in zip(rows, self._tagger.tag([utterances[row] for row in rows]), strict=True):
                tags[row] = found
        return tags


class _Spoken(NamedTuple):
    """The recognised words of a segment, and the pause after each as in `Utterance`."""

    words: Sequence[Word]
    pauses: Sequence[float | None]

    @classmethod
    def of(cls, segment: Segment) -> _Spoken:
        """From a segment; without word times, pauses are unknown and words count as sure."""
        segment = segment.as_spoken()
        if segment.words:
            return cls.timed(segment.words)
        words = [Word(text, segment.start_seconds, segment.end_seconds, 1.0) for text in segment.text.split()]
        return cls(words, [None] * len(words))

    @classmethod
    def timed(cls, words: Sequence[Word]) -> _Spoken:
        """From words with times."""
        pauses = (max(0.0, after.start_seconds - word.end_seconds) for word, after in pairwise(words))
        return cls(words, [*pauses, None] if words else [])

    @property
    def texts(self) -> list[str]:
        return _texts(self.words)

    def utterance(self, context: Context, *, final: bool = True) -> Utterance:
        before = context.words if final else context.words[-PARTIAL_CONTEXT_WORDS:]
        return Utterance(self.texts, self.pauses, before, final)


def _as_written(segment: Segment, words: Sequence[Word]) -> Segment:
    """The segment with its written words; unchanged if they equal the recognised text."""
    segment = segment.as_spoken()
    text = " ".join(_texts(words))
    if text == segment.text:
        return segment
    timed = tuple(words) if segment.words else ()
    return replace(segment, text=text, words=timed, spoken_text=segment.text, spoken_words=segment.words)


def _texts(words: Sequence[Word]) -> list[str]:
    return [word.text for word in words]


def _written_words(
    spoken: _Spoken, tags: Sequence[Tag] | None, context: Context, names: Names | None
) -> tuple[list[Word], bool]:
    """The written words, and whether their last sentence is still open."""
    marks = [tag.mark for tag in tags] if tags else [""] * len(spoken.words)
    texts = [tag.text for tag in tags] if tags else spoken.texts
    is_open, written = context.sentence_open, []
    for form in _covering_forms(spoken, marks, texts, names):
        text, mark = form.text, marks[form.end - 1]
        if tags and not is_open:
            text = _capitalised(text)
        if mark:
            is_open = mark not in SENTENCE_ENDS
            text = _marked(text, mark)
        else:
            is_open = True
        parts = spoken.words[form.start : form.end]
        confidence = min(word.confidence for word in parts)
        written.append(Word(text, parts[0].start_seconds, parts[-1].end_seconds, confidence))
    return written, is_open


def _covering_forms(spoken: _Spoken, marks: Sequence[str], texts: Sequence[str], names: Names | None) -> Iterator[Form]:
    """Cover all words by forms: names first, then numbers, then single words."""
    forms = names.forms(spoken.texts) if names is not None else []
    taken = {at for form in forms for at in range(form.start, form.end)}
    sure = [word.confidence >= _SURE_CONFIDENCE and at not in taken for at, word in enumerate(spoken.words)]
    breaks = [bool(mark) or (pause or 0) >= _BREAK_SECONDS for mark, pause in zip(marks, spoken.pauses, strict=True)]
    number_forms = [
        form for form in numbers.forms(spoken.texts, sure, breaks) if taken.isdisjoint(range(form.start, form.end))
    ]

    at = 0
    for form in sorted([*forms, *number_forms]):
        yield from (Form(i, i + 1, texts[i]) for i in range(at, form.start))
        yield form
        at = form.end
    yield from (Form(i, i + 1, texts[i]) for i in range(at, len(spoken.words)))


def _marked(text: str, mark: str) -> str:
    """The word with the mark after it; the full stop of an abbreviation also ends a sentence."""
    if mark == "." and text.endswith("."):
        return text
    return f"{text} {mark}" if mark == "—" else text + mark


def _capitalised(text: str) -> str:
    """The word at the start of a sentence; one with its own capitals (iPhone) or an initial digit is unchanged."""
    if text != text.lower():
        return text
    for at, letter in enumerate(text):
        if letter.isdigit():
            return text
        if letter.isalpha():
            return text[:at] + letter.title() + text[at + 1 :]
    return text
