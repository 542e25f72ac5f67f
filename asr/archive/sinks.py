"""Where the transcripts of many sources go: standard output, files in a folder, or rows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr.archive.sources import STANDARD_INPUT, are_several, find, is_folder, is_manifest
from asr.errors import DataError, SpellstreamError
from asr.files import absolute, write_atomically
from asr.output.formats import render
from asr.output.rows import open_rows

if TYPE_CHECKING:
    from asr.transcript import Transcript

__all__ = ["OutputFolder", "Sink", "StandardOutput", "open_sink"]


class Sink(Protocol):
    """Takes transcripts one by one; a subclass inherits a `fail` and a `close` that do nothing."""

    def holds(self, source: str) -> bool:
        """Whether the output for this source is complete already."""

    def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
        """Take one transcript; `error` says why it is incomplete.

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
        several: mark which source a line is from: plain text lines start with its name, json is one line per source.
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
        sys.stdout.flush()  # a reader at the other end of a pipe sees each transcript at once


class OutputFolder(Sink):
    """Transcripts as files `NAME.wav.txt` in a folder tree that mirrors the sources'.

    The whole name is kept, so that the outputs of `a.wav` and `a.mp3` do not collide. Paths are relative to the deepest
    folder that holds all sources; for a single folder, relative to that folder.
    """

    def __init__(self, folder: Path, sources: Sequence[str], formats: Sequence[str]) -> None:
        self._folder, self._formats = folder, tuple(formats)
        self._root = os.path.commonpath(parents) if (parents := _parents(sources)) else ""

    def paths(self, source: str) -> list[Path]:
        """The output files of a source, one for each format."""
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
    """The folder of each source; for a folder, the folder itself."""
    parents: set[str] = set()
    for source in sources:
        if is_manifest(source):
            parents.update(str(Path(found).parent) for found in find([source]) if isinstance(found, str))
        elif source != STANDARD_INPUT:
            path = absolute(source)
            parents.add(path if is_folder(source) else str(Path(path).parent))
    return parents


def open_sink(
    sources: Sequence[str], rows: Path | None, folder: Path | None, formats: Sequence[str], *, resume: bool
) -> Sink:
    """The sink for the given options: rows, or files in `folder`, or standard output in the first of `formats`.

    Raises:
        ConfigError: see `asr.output.rows.open_rows`.
        OSError: the folder cannot be made.
    """
    if rows is not None:
        return open_rows(rows, resume=resume)
    if folder is None:
        return StandardOutput(formats[0], are_several(sources))
    folder.mkdir(parents=True, exist_ok=True)
    return OutputFolder(folder, sources, formats)
