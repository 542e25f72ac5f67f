"""Many sources to transcripts: finding them, leaving out what is done, writing each as it comes, in flat memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr.archive.manifest import scan
from asr.errors import AudioError, DataError, SpellstreamError
from asr.files import absolute, write_atomically
from asr.output.formats import render
from asr.output.rows import open_rows
from asr.terminal import Progress, say
from asr.transcript import Transcript

if TYPE_CHECKING:
    from asr.config import SearchConfig
    from asr.recogniser import Outcome

__all__ = [
    "SUFFIXES",
    "Options",
    "OutputFolder",
    "Sink",
    "StandardOutput",
    "Tally",
    "Transcriber",
    "are_several",
    "find",
    "open_sink",
    "run",
]

STANDARD_INPUT = "-"
# fmt: off
SUFFIXES = frozenset({
    # libsndfile reads these
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc",
    ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".sds", ".avr",
    # ffmpeg reads these
    ".m4a", ".m4b", ".aac", ".ac3", ".eac3", ".amr", ".ape", ".wma", ".wv", ".tta", ".mka", ".spx", ".dts",
    ".mp4", ".m4v", ".mkv", ".mov", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".3g2",
    ".ogv", ".vob",
})
# fmt: on
"""Extensions of the files that are looked for in folders, in lower case."""


def find(sources: Sequence[str]) -> Iterator[str | SpellstreamError]:
    """Each source as it is named, a folder as the audio files in it and below it, in the order of their names.

    A manifest (`NAME.jsonl`, see `asr.archive.manifest`) comes as the audio files that it lists. Hidden files and
    folders and linked folders are left out. A folder that cannot be read or holds no audio file comes as an error,
    as does a manifest, or a line of it, that cannot be read.
    """
    for source in sources:
        if is_manifest(source):
            yield from _listed(source)
            continue
        if not is_folder(source):
            yield source
            continue
        empty = True
        for found in _audio_files(source):
            empty = False
            yield found
        if empty:
            yield AudioError(source, "no audio file in this folder")


def are_several(sources: Sequence[str]) -> bool:
    """Whether there may be more than one file in them."""
    return len(sources) > 1 or is_folder(sources[0]) or is_manifest(sources[0])


def is_folder(source: str) -> bool:
    """Whether this source stands for the files in it."""
    try:
        return source != STANDARD_INPUT and Path(source).is_dir()
    except OSError:  # reading it will tell why
        return False


def is_manifest(source: str) -> bool:
    """Whether this source stands for the files that it lists."""
    return Path(source).suffix.lower() == ".jsonl" and not is_folder(source)


def _listed(manifest: str) -> Iterator[str | SpellstreamError]:
    try:
        for _, found in scan(Path(manifest)):
            yield found if isinstance(found, DataError) else str(found.audio)
    except DataError as error:
        yield error


def _audio_files(folder: str) -> Iterator[str | AudioError]:
    try:
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in visible)
    except OSError as error:
        yield AudioError(folder, error.strerror or str(error))
        return
    for name, is_dir in found:
        path = Path(folder, name)
        if is_dir:
            yield from _audio_files(str(path))
        elif path.suffix.lower() in SUFFIXES:
            yield str(path)


class Sink(Protocol):
    """Where transcripts go; one that inherits from it keeps no errors and needs no end."""

    def holds(self, source: str) -> bool:
        """Whether all that `write` would leave is there already."""

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        """Take one transcript, with the reason why it is not whole, if so; a DataError concerns this one alone."""

    def fail(self, source: str, error: SpellstreamError) -> None:
        """Take the reason why there is no transcript."""
        return

    def close(self) -> None:
        """Keep all that was taken; nothing more will come. A DataError says that it cannot be."""
        return


class Transcriber(Protocol):
    """What turns sources into transcripts: a `Recogniser`, or many of them on a cluster."""

    def transcribe_many(
        self,
        sources: Iterable[str],
        *,
        search: SearchConfig,
        word_timestamps: bool,
        batch_size: int,
        keep_damaged: bool,
    ) -> Iterator[Outcome]:
        """As `Recogniser.transcribe_many`."""


class StandardOutput(Sink):
    """Transcripts on standard output, in one format.

    Args:
        format: one of `asr.output.formats.FORMATS`.
        several: tell sources apart: plain text gets the name before each line, json takes one line each.
    """

    def __init__(self, format: str, several: bool) -> None:  # noqa: A002 - as in asr.output.formats
        self._format, self._several = format, several

    def holds(self, source: str) -> bool:
        return False

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        text = render(transcript, self._format)
        if self._several and self._format == "json":
            text = json.dumps(json.loads(text), ensure_ascii=False) + "\n"
        elif self._several:
            name = " ".join(source.splitlines())
            text = "".join(f"{name}: {line}".rstrip() + "\n" for line in text.splitlines() or [""])
        sys.stdout.write(text)
        sys.stdout.flush()  # for whoever reads along


class OutputFolder(Sink):
    """Transcripts as files `NAME.wav.txt` below a folder that mirrors where the sources lie.

    The whole name is kept, so that `a.wav` and `a.mp3` never meet. Paths are relative to the deepest folder that holds
    all sources; a single folder is mirrored from itself on.
    """

    def __init__(self, folder: Path, sources: Sequence[str], formats: Sequence[str]) -> None:
        self._folder, self._formats = folder, tuple(formats)
        self._root = os.path.commonpath(parents) if (parents := _parents(sources)) else ""

    def paths(self, source: str) -> list[Path]:
        """The files that hold this source's transcript, one for each format."""
        name = "stdin" if source == STANDARD_INPUT else os.path.relpath(absolute(source), self._root)
        return [self._folder / f"{name}.{format_name}" for format_name in self._formats]

    def holds(self, source: str) -> bool:
        return all(path.is_file() for path in self.paths(source))

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        contents = [render(transcript, format_name) for format_name in self._formats]
        for path, content in zip(self.paths(source), contents, strict=True):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
            write_atomically(path, content)


def _parents(sources: Sequence[str]) -> set[str]:
    """The folders that sources are in, a folder being in itself."""
    parents: set[str] = set()
    for source in sources:
        if is_manifest(source):
            parents.update(str(Path(found).parent) for found in _listed(source) if isinstance(found, str))
        elif source != STANDARD_INPUT:
            path = absolute(source)
            parents.add(path if is_folder(source) else str(Path(path).parent))
    return parents


def open_sink(
    sources: Sequence[str], rows: Path | None, folder: Path | None, formats: Sequence[str], *, resume: bool
) -> Sink:
    """Rows, or files in a folder, which is made, or else standard output in the first of the formats.

    Raises:
        ConfigError: see `asr.output.rows.open_rows`.
    """
    if rows is not None:
        return open_rows(rows, resume=resume)
    if folder is None:
        return StandardOutput(formats[0], are_several(sources))
    folder.mkdir(parents=True, exist_ok=True)
    return OutputFolder(folder, sources, formats)


@dataclass
class Tally:
    """How many sources came to what end; `skipped` ones were there already."""

    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.done + self.failed + self.skipped


@dataclass(frozen=True)
class Options:
    """How to transcribe; `resume` skips what the sink holds, `keep_damaged` is that of `transcribe_many`."""

    search: SearchConfig
    word_timestamps: bool
    batch_size: int
    resume: bool = False
    keep_damaged: bool = False


def run(transcriber: Transcriber, sources: Sequence[str], sink: Sink, options: Options, progress: Progress) -> Tally:
    """Transcribe all sources into `sink`, each as soon as it is done; those that fail are named in one line each.

    Raises:
        KeyboardInterrupt: at Ctrl-C, with a message that says how far it got; what was finished is kept.
    """
    tally = Tally()

    def fail(error: SpellstreamError) -> None:
        tally.failed += 1
        say(error)
        progress.advance()

    def wanted() -> Iterator[str]:
        for source in find(sources):
            if isinstance(source, SpellstreamError):
                fail(source)
            elif options.resume and sink.holds(source):
                tally.skipped += 1
                progress.advance()
            else:
                yield source

    outcomes = transcriber.transcribe_many(
        wanted(),
        search=options.search,
        word_timestamps=options.word_timestamps,
        batch_size=options.batch_size,
        keep_damaged=options.keep_damaged,
    )
    try:
        for source, transcript, error in outcomes:
            problem = _keep(sink, source, transcript, error)
            if problem is not None:
                fail(problem)
                continue
            tally.done += 1
            progress.advance(transcript.duration_seconds if transcript else 0.0)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"transcripts finished and kept: {tally.done}") from None
    return tally


def _keep(
    sink: Sink, source: str, transcript: Transcript | None, error: SpellstreamError | None
) -> SpellstreamError | None:
    """Put into the sink what became of a source; gives what went wrong, here or before."""
    problem = error or DataError(f"{source}: came back without a transcript")
    try:
        if transcript is None:
            sink.fail(source, problem)
            return problem
        sink.write(source, transcript, error)
    except DataError as unwritten:
        return unwritten
    return error
