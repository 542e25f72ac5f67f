"""Timed text: words and segments, and the part of a transcript that the renderers need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

__all__ = ["Alternative", "Segment", "TimedText", "Word"]


@dataclass(frozen=True)
class Word:
    """One recognised word.

    Args:
        text: the word as spelled in its segment's text.
        start_seconds: when it starts, on the clock of the source.
        end_seconds: when it ends.
        confidence: probability that it is right, 0 to 1.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """One hypothesis of a segment; `score` is the search's total log score, higher is better."""

    text: str
    score: float


@dataclass(frozen=True)
class Segment:
    """Speech between two pauses.

    Args:
        text: the text in written form or, in the spoken style, as recognised.
        start_seconds: when the segment starts, on the clock of the source.
        end_seconds: when it ends.
        score: the search's total log score; higher is better.
        words: the words of `text` in order; empty unless word times were requested. A written word such as "25" spans
            the times of all recognised words it was made from, with their lowest confidence.
        alternatives: the best hypotheses as recognised, best first, including the chosen one; empty unless `nbest` is
            above 1.
        spoken_text: the text as recognised if it differs from `text`, else None.
        spoken_words: the words of `spoken_text`, like `words`.
    """

    text: str
    start_seconds: float
    end_seconds: float
    score: float
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    spoken_text: str | None = None
    spoken_words: tuple[Word, ...] = ()

    @property
    def spoken(self) -> str:
        """The text as it was recognised: words in lower case, without marks."""
        return self.text if self.spoken_text is None else self.spoken_text

    def as_spoken(self) -> Segment:
        """This segment with text and words as they were recognised."""
        if self.spoken_text is None:
            return self
        return replace(self, text=self.spoken_text, words=self.spoken_words, spoken_text=None, spoken_words=())

    def shifted(self, seconds: float) -> Segment:
        """This segment with `seconds` added to all its times."""
        return replace(
            self,
            start_seconds=self.start_seconds + seconds,
            end_seconds=self.end_seconds + seconds,
            words=_shifted(self.words, seconds),
            spoken_words=_shifted(self.spoken_words, seconds),
        )


def _shifted(words: tuple[Word, ...], seconds: float) -> tuple[Word, ...]:
    return tuple(
        replace(word, start_seconds=word.start_seconds + seconds, end_seconds=word.end_seconds + seconds)
        for word in words
    )


class TimedText(Protocol):
    """The interface that renderers read; see `asr.transcript.Transcript`."""

    @property
    def source(self) -> str:
        """Name of the source."""

    @property
    def duration_seconds(self) -> float:
        """Length of the source."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Its segments, in order."""

    @property
    def text(self) -> str:
        """The whole text on one line."""

    @property
    def spoken(self) -> str:
        """The whole text as recognised."""
