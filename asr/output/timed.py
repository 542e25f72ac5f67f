"""Timed text: words and segments, and what the renderers need to know of a transcript."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

__all__ = ["Alternative", "Segment", "TimedText", "Word"]


@dataclass(frozen=True)
class Word:
    """One recognised word.

    Args:
        text: the word as it is spelled in its segment's text.
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
    """A stretch of speech between two pauses.

    Args:
        text: what was said.
        start_seconds: when the segment starts, on the clock of the source.
        end_seconds: when it ends.
        score: the search's total log score; higher is better.
        words: its words in order; empty unless word times were asked for.
        alternatives: the best hypotheses, best first, `text` included; empty unless `nbest` is above 1.
    """

    text: str
    start_seconds: float
    end_seconds: float
    score: float
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()

    def shifted(self, seconds: float) -> Segment:
        """This segment with `seconds` added to all its times."""
        words = tuple(
            replace(w, start_seconds=w.start_seconds + seconds, end_seconds=w.end_seconds + seconds) for w in self.words
        )
        return replace(
            self, start_seconds=self.start_seconds + seconds, end_seconds=self.end_seconds + seconds, words=words
        )


class TimedText(Protocol):
    """What a renderer reads: see `asr.transcript.Transcript`."""

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
