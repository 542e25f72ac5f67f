"""Audio files in folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from asr.audio.kinds import SUFFIXES
from asr.errors import AudioError

__all__ = ["SUFFIXES", "audio_files"]


def audio_files(folder: str) -> Iterator[str | AudioError]:
    """The audio files in a folder and below it, sorted by name; what cannot be read is yielded as an error.

    Hidden files, hidden folders and linked folders are left out. Pipes, sockets and devices are errors, since opening
    one can wait forever.
    """
    try:
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False), _is_special(entry)) for entry in visible)
    except OSError as error:
        yield AudioError(folder, error.strerror or str(error))
        return
    for name, is_dir, is_special in found:
        path = Path(folder, name)
        if is_dir:
            yield from audio_files(str(path))
        elif path.suffix.lower() in SUFFIXES:
            yield AudioError(str(path), "is a pipe, socket or device, not a file") if is_special else str(path)


def _is_special(entry: os.DirEntry[str]) -> bool:
    if entry.is_file():  # known without a system call, unless it is a link
        return False
    try:
        mode = entry.stat().st_mode
    except OSError:  # a broken link: reading it tells why
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
