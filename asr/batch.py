"""Many sources to transcripts: finding them, leaving out what is done, writing each as it comes, in flat memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr.errors import AudioError, DataError, SpellstreamError
from asr.formats import render, write_atomically
from asr.terminal import Progress, say
from asr.transcript import Transcript

if TYPE_CHECKING:
    from asr.config import SearchConfig
    from asr.transcribe import Recogniser

__all__ = [
    "SUFFIXES",
    "Options",
    "OutputFolder",
    "Sink",
    "StandardOutput",
    "Tally",
    "find",
    "is_folder",
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


def find(sources: Sequence[str]) -> Iterator[str | AudioError]:
    """Each source as it is named, a folder as the audio files in it and below it, in the order of their names.

    Hidden files and folders and linked folders are left out. A folder that cannot be read or holds no audio file comes
    as an error.
    """
    for source in sources:
        if not is_folder(source):
            yield source
            continue
        empty = True
        for found in _audio_files(source):
            empty = False
            yield found
        if empty:
            yield AudioError(source, "no audio file in this folder")


def is_folder(source: str) -> bool:
    """Whether this source stands for the files in it."""
    try:
        return source != STANDARD_INPUT and Path(source).is_dir()
    except OSError:  # reading it will tell why
        return False


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
    """Where transcripts go."""

    def holds(self, source: str) -> bool:
        """Whether all that `write` would leave is there already."""

    def write(self, source: str, transcript: Transcript) -> None:
        """Take one transcript; a DataError concerns this one alone."""


class StandardOutput:
    """Transcripts on standard output, in one format.

    Args:
        format: one of `asr.formats.FORMATS`.
        several: tell sources apart: plain text gets the name before each line, json takes one line each.
    """

    def __init__(self, format: str, several: bool) -> None:  # noqa: A002 - as in asr.formats
        self._format, self._several = format, several

    def holds(self, source: str) -> bool:
        return False

    def write(self, source: str, transcript: Transcript) -> None:
        text = render(transcript, self._format)
        if self._several and self._format == "json":
            text = json.dumps(json.loads(text), ensure_ascii=False) + "\n"
        elif self._several:
            name = " ".join(source.splitlines())
            text = "".join(f"{name}: {line}".rstrip() + "\n" for line in text.splitlines() or [""])
        sys.stdout.write(text)
        sys.stdout.flush()  # for whoever reads along


class OutputFolder:
    """Transcripts as files `NAME.wav.txt` below a folder that mirrors where the sources lie.

    The whole name is kept, so that `a.wav` and `a.mp3` never meet. Paths are relative to the deepest folder that holds
    all sources; a single folder is mirrored from itself on.
    """

    def __init__(self, folder: Path, sources: Sequence[str], formats: Sequence[str]) -> None:
        self._folder, self._formats = folder, tuple(formats)
        given = [(source, _absolute(source)) for source in sources if source != STANDARD_INPUT]
        parents = [path if is_folder(source) else path.parent for source, path in given]
        self._root = os.path.commonpath(parents) if parents else ""

    def paths(self, source: str) -> list[Path]:
        """The files that hold this source's transcript, one for each format."""
        name = "stdin" if source == STANDARD_INPUT else os.path.relpath(_absolute(source), self._root)
        return [self._folder / f"{name}.{format_name}" for format_name in self._formats]

    def holds(self, source: str) -> bool:
        return all(path.is_file() for path in self.paths(source))

    def write(self, source: str, transcript: Transcript) -> None:
        contents = [render(transcript, format_name) for format_name in self._formats]
        for path, content in zip(self.paths(source), contents, strict=True):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
            write_atomically(path, content)


def open_sink(sources: Sequence[str], folder: Path | None, formats: Sequence[str], *, several: bool) -> Sink:
    """Files in a folder, which is made, or else standard output in the first of the formats."""
    if folder is None:
        return StandardOutput(formats[0], several)
    folder.mkdir(parents=True, exist_ok=True)
    return OutputFolder(folder, sources, formats)


def _absolute(source: str) -> Path:
    """By its letters alone: following links would give a linked file the name of its target."""
    return Path(os.path.normpath(Path(source).absolute()))


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
    """How to transcribe; `resume` skips sources whose transcripts the sink holds."""

    search: SearchConfig
    word_timestamps: bool
    batch_size: int
    resume: bool = False


def run(recogniser: Recogniser, sources: Sequence[str], sink: Sink, options: Options, progress: Progress) -> Tally:
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
            if isinstance(source, AudioError):
                fail(source)
            elif options.resume and sink.holds(source):
                tally.skipped += 1
                progress.advance()
            else:
                yield source

    outcomes = recogniser.transcribe_many(
        wanted(),
        search=options.search,
        word_timestamps=options.word_timestamps,
        batch_size=options.batch_size,
    )
    try:
        for source, transcript, error in outcomes:
            if transcript is None:
                fail(error or DataError(f"{source}: came back without a transcript"))
                continue
            try:
                sink.write(source, transcript)
            except DataError as problem:
                fail(problem)
            else:
                tally.done += 1
                progress.advance(transcript.duration_seconds)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"transcripts finished and kept: {tally.done}") from None
    return tally
