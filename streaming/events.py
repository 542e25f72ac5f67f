"""What a stream tells: words while they are spoken, and segments once they are finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from asr.transcript import Segment, Word

__all__ = ["Event", "Final", "Partial"]


@dataclass(frozen=True)
class Partial:
    """The segment that is being spoken. `committed` words never change; `tentative` ones may with the next event.

    Times are seconds from the start of the stream; `heard_seconds` is how far it has been heard.
    """

    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    heard_seconds: float

    @property
    def text(self) -> str:
        return " ".join(word.text for word in (*self.committed, *self.tentative))


@dataclass(frozen=True)
class Final:
    """A finished segment; it begins with every word that was committed while it was spoken, times and all."""

    segment: Segment
    heard_seconds: float

    @property
    def text(self) -> str:
        return self.segment.text


Event: TypeAlias = Partial | Final
