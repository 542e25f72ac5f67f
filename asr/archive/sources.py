"""From the sources that a user names to the files that they stand for: folders are searched, manifests are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.archive.manifest import scan
from asr.errors import AudioError, DataError, SpellstreamError

__all__ = ["STANDARD_INPUT", "SUFFIXES", "are_several", "find", "is_folder", "is_manifest"]

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
"""Extensions that count as audio in a folder, in lower case."""


def find(sources: Sequence[str]) -> Iterator[str | SpellstreamError]:
    """The files that sources stand for, in order; what cannot be read comes as an error in its place.

    A folder stands for the audio files in it and below it, sorted by name; hidden files, hidden folders and linked
    folders are left out. A manifest (see `asr.archive.manifest`) stands for the audio files that it lists. Everything
    else is yielded as it is named. Errors: a folder that cannot be read or holds no audio file, a manifest or a row
    of it that cannot be read.
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
