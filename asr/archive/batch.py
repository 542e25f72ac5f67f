"""Transcribe many sources into a sink, in constant memory: each transcript is written as soon as it is ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from asr.archive.sources import find, missing
from asr.errors import DataError, SpellstreamError
from asr.terminal import Progress, say

if TYPE_CHECKING:
    from asr.archive.sinks import Sink
    from asr.audio import Track
    from asr.audio.segment import SegmentConfig
    from asr.config import SearchConfig
    from asr.recogniser import Outcome
    from asr.transcript import Transcript
    from asr.writing.hotwords import Hotwords
    from asr.writing.parts import Style

__all__ = ["Options", "Totals", "TranscribeMany", "report_missing", "run"]


class TranscribeMany(Protocol):
    """The method of a `Recogniser`, or of a `Cluster` of them."""

    def __call__(
        self,
        sources: Iterable[str],
        *,
        search: SearchConfig,
        segment: SegmentConfig | None,
        word_timestamps: bool,
        batch_size: int,
        keep_damaged: bool,
        track: Track,
        hotwords: Hotwords | None,
        style: Style,
    ) -> Iterator[Outcome]:
        """See `Recogniser.transcribe_many`."""


@dataclass
class Totals:
    """Number of sources that were transcribed, failed, or were skipped because their transcript exists already."""

    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.done + self.failed + self.skipped

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.done + other.done, self.failed + other.failed, self.skipped + other.skipped)


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Args:
        search: beam size and weights.
        word_timestamps: also find when each word was said.
        batch_size: segments decoded together.
        resume: skip sources whose output is complete already.
        keep_damaged: write the readable part of a damaged file, which still counts as failed.
        segment: how audio is cut into segments; the defaults if None.
        track: audio track of each file: its number from 1 on, or its language; None: the English one, if any.
        hotwords: names and terms to listen for.
        style: "written", or "spoken" for the words as they were recognised.
    """

    search: SearchConfig
    word_timestamps: bool
    batch_size: int
    resume: bool = False
    keep_damaged: bool = False
    segment: SegmentConfig | None = None
    track: Track = None
    hotwords: Hotwords | None = None
    style: Style = "written"


def report_missing(sources: Sequence[str], sink: Sink, *, resume: bool = False) -> list[str]:
    """Report each source that does not exist, in one line on standard error; return the other sources.

    So a mistyped name is reported before a model is loaded. With `resume`, a source whose output is complete is not
    reported, since it is skipped even if its audio was deleted.
    """
    there: list[str] = []
    for source in sources:
        error = missing(source)
        if error is None or (resume and sink.holds(source)):
            there.append(source)
        else:
            say(_keep(sink, source, None, error))
    return there


def run(
    transcribe_many: TranscribeMany, sources: Sequence[str], sink: Sink, options: Options, progress: Progress
) -> Totals:
    """Transcribe all sources into `sink`; each one that fails is reported in one line on standard error.

    Raises:
        KeyboardInterrupt: on Ctrl-C, with a message that counts the transcripts finished, which are kept.
    """
    totals = Totals()

    def fail(error: SpellstreamError) -> None:
        totals.failed += 1
        say(error)
        progress.advance()

    def wanted() -> Iterator[str]:
        for source in find(sources):
            if isinstance(source, SpellstreamError):
                fail(source)
            elif options.resume and sink.holds(source):
                totals.skipped += 1
                progress.advance()
            elif (obstacle := sink.obstacle(source)) is not None:
                fail(obstacle)
            else:
                yield source

    outcomes = transcribe_many(
        wanted(),
        search=options.search,
        segment=options.segment,
        word_timestamps=options.word_timestamps,
        batch_size=options.batch_size,
        keep_damaged=options.keep_damaged,
        track=options.track,
        hotwords=options.hotwords,
        style=options.style,
    )
    try:
        for source, transcript, error in outcomes:
            problem = _keep(sink, source, transcript, error)
            if problem is not None:
                fail(problem)
                continue
            totals.done += 1
            progress.advance(transcript.duration_seconds if transcript else 0.0)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"transcripts finished and kept: {totals.done}") from None
    return totals


def _keep(
    sink: Sink, source: str, transcript: Transcript | None, error: SpellstreamError | None
) -> SpellstreamError | None:
    """Write the outcome of one source to the sink; return the error of reading or writing it, if any."""
    problem = error or DataError(f"{source}: came back without a transcript")
    try:
        if transcript is None:
            sink.fail(source, problem)
            return problem
        sink.write(source, transcript, error)
    except DataError as unwritten:
        return unwritten
    return error
