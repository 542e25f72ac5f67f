"""Destinations for the transcripts of many sources: standard output, files in a folder, or rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr.archive.names import OutputNames
from asr.archive.sources import STANDARD_INPUT, are_several, find, is_folder, is_manifest
from asr.errors import DataError, SpellstreamError
from asr.files import absolute, write_atomically
from asr.output.formats import render
from asr.output.rows import open_rows
from asr.terminal import write_output

if TYPE_CHECKING:
    from asr.output.subtitles import SubtitleShape
    from asr.transcript import Transcript

__all__ = ["Destination", "OutputFile", "OutputFiles", "Sink", "StandardOutput", "open_sink"]


@dataclass(frozen=True)
class Destination:
    """Destination and format of transcripts; standard output unless one of the first four is given.

    Args:
        rows: a file or folder of rows, see `asr.output.rows`.
        file: a file for the transcript of a single source.
        folder: a folder that mirrors the tree of the sources.
        beside: write each transcript beside its source.
        formats: of `asr.output.formats.FORMATS`; a file or standard output takes the first.
        shape: line width and other limits of subtitles.
        resume: keep existing rows and files, and skip their sources.
        overwrite: replace existing files beside sources.
    """

    rows: Path | None = None
    file: Path | None = None
    folder: Path | None = None
    beside: bool = False
    formats: tuple[str, ...] = ("txt",)
    shape: SubtitleShape | None = None
    resume: bool = False
    overwrite: bool = False


class Sink(Protocol):
    """Takes transcripts one by one; a subclass inherits methods that do nothing."""

    notes: Sequence[str] = ()
    """Notes for the user before the work starts, one line each."""

    def obstacle(self, source: str) -> DataError | None:
        """The reason why this source's output cannot be written, as far as known before the work."""
        return None

    def holds(self, source: str) -> bool:
        """Whether the output for this source is complete already."""

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        """Take one transcript; `error` is the reason why it is incomplete.

        Raises:
            DataError: this transcript cannot be written; others may be.
        """

    def fail(self, source: str, error: SpellstreamError) -> None:
        """Take the reason why a source has no transcript."""
        return

    def close(self) -> None:
        """Flush everything to its destination.

        Raises:
            DataError: it cannot be written.
        """
        return


class StandardOutput(Sink):
    """Transcripts on standard output, in one format.

    Args:
        format: one of `asr.output.formats.FORMATS`.
        several: there are several sources: plain text lines start with the source's name, json is one line per source.
        shape: line width and other limits of subtitles.
    """

    def __init__(self, format: str, several: bool, shape: SubtitleShape | None = None) -> None:  # noqa: A002
        self._format, self._several, self._shape = format, several, shape

    def holds(self, source: str) -> bool:
        return False

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        text = render(transcript, self._format, self._shape)
        if self._several and self._format == "json":
            text = json.dumps(json.loads(text), ensure_ascii=False) + "\n"
        elif self._several:
            name = " ".join(source.splitlines())
            text = "".join(f"{name}: {line}".rstrip() + "\n" for line in text.splitlines() or [""])
        write_output(text)  # at once, for a reader at the other end of a pipe


class OutputFile(Sink):
    """One file for the transcript of one source; an existing file is replaced."""

    def __init__(self, path: Path, format: str, shape: SubtitleShape | None = None) -> None:  # noqa: A002
        self._path, self._format, self._shape = path, format, shape

    def obstacle(self, source: str) -> DataError | None:
        if not self._path.parent.exists():
            return DataError(f"{self._path.parent}: no such folder")
        return _unwritable(self._path)

    def holds(self, source: str) -> bool:
        return False

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        write_atomically(self._path, render(transcript, self._format, self._shape))


class OutputFiles(Sink):
    """A file for each source and format, `talk.srt` for `talk.mp4`; `OutputNames` chooses the names.

    Files go beside their sources, or into a folder tree that mirrors the sources' tree, relative to the deepest folder
    that contains all sources, or to the folder itself if it is the only source.
    """

    def __init__(self, sources: Sequence[str], destination: Destination) -> None:
        self._destination = destination
        self._root = os.path.commonpath(parents) if (parents := _parents(sources)) else str(Path.cwd())
        found = (self._path(one) for one in find(sources) if isinstance(one, str))
        self._names = OutputNames(found, _longest_name(destination.folder or Path(self._root)))

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        notes = []
        if (path := self._names.collision) is not None:
            example = f"{self._names.short(path)}.{self._destination.formats[0]}"
            notes.append(f"sources that differ only in their extension keep it in the output: {example}")
        if (path := self._names.shortened) is not None:
            notes.append(f"{path}: name too long for an output, shortened to {self._names.short(path)}")
        return notes

    def paths(self, source: str) -> list[Path]:
        """The output files of a source, one for each format."""
        return self._paths(source, self._names.short)

    def obstacle(self, source: str) -> DataError | None:
        keep = self._destination.beside and not (self._destination.resume or self._destination.overwrite)
        for path in self.paths(source):
            if keep and path.exists():
                return DataError(f"{path}: exists already: --overwrite replaces it, --resume skips it")
            if (error := _unwritable(path)) is not None:
                return error
        return None

    def holds(self, source: str) -> bool:
        # Before version 0.2 all outputs kept the extension of their source.
        return any(
            all(path.is_file() for path in self._paths(source, name)) for name in (self._names.short, self._names.whole)
        )

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        for path, name in zip(self.paths(source), self._destination.formats, strict=True):
            if self._destination.beside and self._destination.resume and path.exists():
                continue
            content = render(transcript, name, self._destination.shape)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
            write_atomically(path, content)

    def _path(self, source: str) -> str:
        return str(Path(self._root, "stdin")) if source == STANDARD_INPUT else absolute(source)

    def _paths(self, source: str, name: Callable[[str], str]) -> list[Path]:
        path = self._path(source)
        folder = Path(path).parent
        if self._destination.folder is not None:
            folder = self._destination.folder / os.path.relpath(folder, self._root)
        return [folder / f"{name(path)}.{format_name}" for format_name in self._destination.formats]


def _longest_name(folder: Path) -> int:
    """Length limit for file names in a folder, in bytes."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on every system; the folder may not exist yet
        return 255


def _unwritable(path: Path) -> DataError | None:
    """The reason why the file cannot be written, as far as its nearest existing folder shows."""
    for folder in path.parents:
        try:
            if folder.is_dir():
                return None if os.access(folder, os.W_OK) else DataError(f"{folder}: no permission to write here")
            if folder.exists():
                return DataError(f"{folder}: cannot be made: File exists")
        except OSError as error:
            return DataError(f"{path}: cannot be written: {error.strerror or error}")
    return None


def _parents(sources: Sequence[str]) -> set[str]:
    """The folder of each source; for a folder, the folder itself."""
    parents: set[str] = set()
    for source in sources:
        if is_manifest(source):
            parents.update(str(Path(found).parent) for found in find([source]) if isinstance(found, str))
        elif source != STANDARD_INPUT:
            path = absolute(source)
            parents.add(path if is_folder(source) else str(Path(path).parent))
    return parents


def open_sink(sources: Sequence[str], destination: Destination) -> Sink:
    """The sink for a destination.

    Raises:
        ConfigError: see `asr.output.rows.open_rows`.
        DataError: see there; or the folder cannot be made.
    """
    if destination.rows is not None:
        return open_rows(destination.rows, resume=destination.resume)
    if destination.file is not None:
        return OutputFile(destination.file, destination.formats[0], destination.shape)
    if destination.folder is not None:
        try:
            destination.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise DataError(f"{destination.folder}: is a file, not a folder") from None
        except OSError as error:
            raise DataError(f"{destination.folder}: cannot be made: {error.strerror or error}") from error
    if destination.folder is not None or destination.beside:
        return OutputFiles(sources, destination)
    return StandardOutput(destination.formats[0], are_several(sources), destination.shape)
