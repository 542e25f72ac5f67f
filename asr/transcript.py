"""What a transcription returns: plain, frozen values with times in seconds.

`Transcript` → `Segment` → `Word`. Times are on the clock of the source that was transcribed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Alternative", "Segment", "Transcript", "Word"]


@dataclass(frozen=True)
class Word:
    """One word; `confidence` is in [0, 1]."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """One further hypothesis of a segment, with the search's total score (log domain, higher is better)."""

    text: str
    score: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech between two silences; `alternatives` is best first and includes `text` itself."""

    text: str
    start_seconds: float
    end_seconds: float
    score: float
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()

    def shifted(self, seconds: float) -> Segment:
        """The same with its times moved, as from its own start to its source's."""
        words = tuple(
            replace(w, start_seconds=w.start_seconds + seconds, end_seconds=w.end_seconds + seconds) for w in self.words
        )
        return replace(
            self, start_seconds=self.start_seconds + seconds, end_seconds=self.end_seconds + seconds, words=words
        )


@dataclass(frozen=True)
class Transcript:
    """The whole of one source."""

    source: str
    duration_seconds: float
    segments: tuple[Segment, ...] = ()

    @property
    def text(self) -> str:
        """All that was said, in one line."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order (empty unless word times were asked for)."""
        return tuple(word for segment in self.segments for word in segment.words)
