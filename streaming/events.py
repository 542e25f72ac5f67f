"""The events of a stream: words while they are spoken, and finished segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from asr.transcript import Segment, Word

__all__ = ["Event", "Final", "Partial"]


@dataclass(frozen=True)
class Partial:
    r"""The words so far of the segment that is being spoken.

        if isinstance(event, streaming.Partial):
            print(event.text, end="\r")

    Attributes:
        committed: words that will not change; each later event of the segment begins with them.
        tentative: words after them, which the next event may change.
        heard_seconds: length of the stream recognised so far. Word times also count from the start of the stream.
        written: the text in the written style, else None; `committed` and `tentative` are always as recognised.
    """

    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    heard_seconds: float
    written: str | None = None

    @property
    def text(self) -> str:
        """The text in the style of the stream; capitals, marks and numbers of written text may still change."""
        return self.spoken if self.written is None else self.written

    @property
    def spoken(self) -> str:
        """All words as they were recognised, joined by spaces."""
        return " ".join(word.text for word in (*self.committed, *self.tentative))

    @property
    def settled_words(self) -> int:
        """The number of words of `text` before the tentative ones."""
        return max(0, len(self.text.split()) - len(self.tentative)) if self.written else len(self.committed)


@dataclass(frozen=True)
class Final:
    """A finished segment.

        if isinstance(event, streaming.Final):
            print(f"{event.segment.start_seconds:.2f} {event.text}")

    Attributes:
        segment: its text, times (seconds from the start of the stream), score and words. The recognised words begin
            with all words committed in its partials, unchanged. No later event changes the segment.
        heard_seconds: length of the stream recognised so far.
    """

    segment: Segment
    heard_seconds: float

    @property
    def text(self) -> str:
        """The text of the segment; empty if its partials turned out to hold no words."""
        return self.segment.text


Event: TypeAlias = Partial | Final
"""What an iteration over a stream yields."""
