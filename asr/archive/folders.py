"""Audio files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asr.errors import AudioError

__all__ = ["SUFFIXES", "audio_files"]

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


def audio_files(folder: str) -> Iterator[str | AudioError]:
    """The audio files in a folder and below it, sorted by name; a folder that cannot be read comes as an error.

    Hidden files, hidden folders and linked folders are left out.
    """
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
            yield from audio_files(str(path))
        elif path.suffix.lower() in SUFFIXES:
            yield str(path)
