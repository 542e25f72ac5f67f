"""Sources in progress: what was read and decoded of each, and what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from asr.audio import SAMPLE_RATE, source_name
from asr.errors import AudioError, SpellstreamError
from asr.transcript import Segment, Transcript

__all__ = ["Job", "Outcome", "unexpected"]


class Outcome(NamedTuple):
    """The result for one source: a transcript, or the error that says why there is none.

    With `keep_damaged`, both: the transcript of the readable part, and why it is incomplete.
    """

    source: Any
    transcript: Transcript | None
    error: SpellstreamError | None


@dataclass
class Job:
    """A source in progress."""

    source: Any
    keep_damaged: bool = False
    segments: list[Segment] = field(default_factory=list)
    pending: int = 0  # spans read but not decoded
    samples: int = 0  # read so far
    error: SpellstreamError | None = None
    damage: AudioError | None = None  # why it ended early, if the part before that is kept
    complete: bool = False  # all of it has been read

    def read(self, blocks: Generator[Tensor, None, None]) -> Iterator[Tensor]:
        """Pass blocks on and count their samples; the reader is closed however this ends."""
        with contextlib.closing(blocks):
            try:
                for block in blocks:
                    self.samples += len(block)
                    yield block
            except Exception as error:
                known = error if isinstance(error, SpellstreamError) else unexpected(self.source, error)
                if not (isinstance(known, AudioError) and self.keep_damaged and self.samples):
                    raise known from known.__cause__
                self.damage = known

    def outcome(self) -> Outcome:
        """The transcript of what was decoded, or the error."""
        if self.error is not None:
            return Outcome(self.source, None, self.error)
        segments = tuple(sorted(self.segments, key=lambda s: s.start_seconds))
        transcript = Transcript(source_name(self.source), self.samples / SAMPLE_RATE, segments)
        return Outcome(self.source, transcript, self.damage)


def unexpected(source: Any, error: Exception) -> AudioError:
    """An exception of a library as one line for the source that caused it; the others go on."""
    known = AudioError(source_name(source), " ".join(f"{type(error).__name__}: {error}".split()))
    known.__cause__ = error
    return known
