"""Audio files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asr.audio.kinds import SUFFIXES
from asr.errors import AudioError

__all__ = ["SUFFIXES", "audio_files"]


def audio_files(folder: str) -> Iterator[str | AudioError]:
    """The audio files in a folder and below it, sorted by name; a folder that cannot be read is yielded as an error.

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
