"""Names of output files: `talk.srt` for `talk.mp4`, unique among all sources and within the system's length limit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from asr.archive.folders import SUFFIXES

__all__ = ["OutputNames"]

_LONGEST_EXTENSION = len(".json")
_DIGEST = 8


class OutputNames:
    """Chooses the output name of each source, without the extension of the format.

    Players look for `talk.srt` beside `talk.mp4`, so the source's extension is dropped. It is kept if two sources in a
    folder differ only in it: `talk.wav.srt` and `talk.mp3.srt`. A name too long for the file system is cut, and gets a
    digest of the whole name so that it stays unique.

    Args:
        paths: absolute paths of all sources of a run, so that collisions are known before any work is done.
        max_bytes: length limit for file names on the outputs' file system.
    """

    def __init__(self, paths: Iterable[str], max_bytes: int = 255) -> None:
        self._room = max_bytes - _LONGEST_EXTENSION
        self.collision: str | None = None
        """The first source that keeps its extension because an earlier one differs only in that."""

        # Hashes, since a run may have millions of sources. A chance collision of two only makes a name longer.
        self._whole: set[int] = set()
        self._shared: set[int] = set()
        self._long: list[str] = []
        stems: set[int] = set()
        for path in paths:
            if hash(path) in self._whole:
                continue
            self._whole.add(hash(path))
            stem = hash(_without_extension(path))
            if stem in stems:
                self._shared.add(stem)
                self.collision = self.collision or path
            stems.add(stem)
            if len(_name(path)) > self._room:
                self._long.append(path)

    @property
    def shortened(self) -> str | None:
        """The first source whose output name has to be cut."""
        return next((path for path in self._long if len(_name(self._chosen(path))) > self._room), None)

    def short(self, path: str) -> str:
        """The output name: without the source's extension if that is unique."""
        return self._fit(self._chosen(path))

    def whole(self, path: str) -> str:
        """The output name with the source's extension, as all outputs were named before version 0.2."""
        return self._fit(path)

    def _chosen(self, path: str) -> str:
        stem = _without_extension(path)
        unique = hash(stem) not in self._shared and (stem == path or hash(stem) not in self._whole)
        return stem if unique else path

    def _fit(self, path: str) -> str:
        name = _name(path)
        if len(name) <= self._room:
            return os.fsdecode(name)
        digest = hashlib.sha256(name).hexdigest()[:_DIGEST]
        kept = name[: self._room - _DIGEST - 1].decode("utf-8", errors="ignore")
        return f"{kept}~{digest}"


def _name(path: str) -> bytes:
    return os.fsencode(Path(path).name)


def _without_extension(path: str) -> str:
    extension = Path(path).suffix
    return path.removesuffix(extension) if extension.lower() in SUFFIXES else path
