"""Sources in progress: decoding options, the parts read and decoded so far, and errors."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from asr.audio import SAMPLE_RATE, source_name
from asr.audio.segment import SegmentConfig
from asr.config import SearchConfig, require
from asr.errors import AudioError, SpellstreamError
from asr.transcript import Segment, Transcript
from asr.writing.hotwords import Hotwords
from asr.writing.writer import Writer

__all__ = ["Decoding", "Job", "Outcome", "unexpected"]


class Outcome(NamedTuple):
    """The result for one source: a transcript, or the error that prevented it.

    With `keep_damaged`, both: the transcript of the readable part, and the error that made it incomplete.
    """

    source: Any
    transcript: Transcript | None
    error: SpellstreamError | None


@dataclass(frozen=True)
class Decoding:
    """Options of one call: how spans are cut, decoded and written."""

    search: SearchConfig
    segment: SegmentConfig | None
    word_timestamps: bool
    batch_size: int
    hotwords: Hotwords | None = None
    writer: Writer | None = None  # None: the spoken words

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        greedy = self.search.beam_size == 1
        require(not (greedy and self.hotwords), "search.beam_size", 1, "at least 2 with hotwords")


@dataclass
class Job:
    """A source in progress."""

    source: Any
    keep_damaged: bool = False
    segments: list[Segment] = field(default_factory=list)
    pending: int = 0  # spans read but not decoded
    samples: int = 0  # read so far
    error: SpellstreamError | None = None
    damage: AudioError | None = None  # why it ended early, if the part before the damage is kept
    complete: bool = False  # all of it has been read

    def read(self, blocks: Generator[Tensor, None, None]) -> Iterator[Tensor]:
        """Pass blocks on and count their samples; always close the reader."""
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

    def outcome(self, decoding: Decoding) -> Outcome:
        """The transcript of the decoded segments, in the requested style, or the error."""
        if self.error is not None:
            return Outcome(self.source, None, self.error)
        segments = sorted(self.segments, key=lambda s: s.start_seconds)
        if decoding.writer is not None:
            try:
                segments = decoding.writer.write_all(segments, decoding.hotwords)
            except Exception as error:
                return Outcome(self.source, None, unexpected(self.source, error))
        transcript = Transcript(source_name(self.source), self.samples / SAMPLE_RATE, tuple(segments))
        return Outcome(self.source, transcript, self.damage)


def unexpected(source: Any, error: Exception) -> AudioError:
    """A library's exception as a one-line error of the source that caused it; other sources continue."""
    known = AudioError(source_name(source), " ".join(f"{type(error).__name__}: {error}".split()))
    known.__cause__ = error
    return known
