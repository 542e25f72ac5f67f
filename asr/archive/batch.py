"""Transcribe many sources into a sink, in constant memory: each transcript is written as soon as it is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asr.archive.sources import find, missing
from asr.errors import DataError, SpellstreamError
from asr.terminal import Progress, say

if TYPE_CHECKING:
    from asr.archive.sinks import Sink
    from asr.recogniser import Outcome
    from asr.transcript import Transcript

__all__ = ["Totals", "report_missing", "run"]


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
    transcribe: Callable[[Iterable[str]], Iterator[Outcome]],
    sources: Sequence[str],
    sink: Sink,
    progress: Progress,
    *,
    resume: bool = False,
) -> Totals:
    """Transcribe all sources into `sink`; each one that fails is reported in one line on standard error.

    Args:
        transcribe: `transcribe_many` of a `Recogniser` or of a `Cluster`, with its settings.
        sources: files, folders and manifests.
        sink: receives the transcripts.
        progress: advanced by each source.
        resume: skip sources whose output is complete already.

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
            elif resume and sink.holds(source):
                totals.skipped += 1
                progress.advance()
            elif (obstacle := sink.obstacle(source)) is not None:
                fail(obstacle)
            else:
                yield source

    try:
        for source, transcript, error in transcribe(wanted()):
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
