"""Expansion of the sources that a user names into files: folders are searched, manifests are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.archive import tables
from asr.archive.folders import audio_files
from asr.archive.manifest import scan
from asr.errors import AudioError, DataError, SpellstreamError

__all__ = ["STANDARD_INPUT", "are_several", "find", "is_folder", "is_manifest", "missing"]

STANDARD_INPUT = "-"


def find(sources: Sequence[str]) -> Iterator[str | SpellstreamError]:
    """The files that sources stand for, in order; an unreadable one is an error in its place.

    A folder stands for the audio files in it and below it, sorted by name; hidden files, hidden folders and linked
    folders are left out. A manifest (see `asr.archive.manifest`) stands for the audio files that it lists. Any other
    name is yielded unchanged. Errors: a folder that cannot be read or holds no audio file; a manifest, or a row of one,
    that cannot be read.
    """
    for source in sources:
        if is_manifest(source):
            yield from _listed(source)
            continue
        if not is_folder(source):
            yield source
            continue
        empty = True
        for found in audio_files(source):
            empty = False
            yield found
        if empty:
            yield AudioError(source, "no audio file in this folder")


def missing(source: str) -> AudioError | None:
    """The error for a source that does not exist; None if it exists, or if only opening it can show."""
    if source == STANDARD_INPUT:
        return None
    try:
        Path(source).stat()
    except (FileNotFoundError, NotADirectoryError):
        return AudioError(source, "no such file")
    except (OSError, ValueError):  # reported when the file is opened
        return None
    return None


def are_several(sources: Sequence[str]) -> bool:
    """Whether the sources may stand for more than one file."""
    return len(sources) > 1 or is_folder(sources[0]) or is_manifest(sources[0])


def is_folder(source: str) -> bool:
    """Whether the source is a folder."""
    try:
        return source != STANDARD_INPUT and Path(source).is_dir()
    except OSError:  # reported when the file is opened
        return False


def is_manifest(source: str) -> bool:
    """Whether the source is a manifest, by its suffix."""
    return Path(source).suffix.lower() in tables.SUFFIXES and not is_folder(source)


def _listed(manifest: str) -> Iterator[str | SpellstreamError]:
    try:
        for _, found in scan(Path(manifest)):
            yield found if isinstance(found, DataError) else str(found.audio)
    except DataError as error:
        yield error
