"""The hub's list of a repository's files, checked before any download."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from asr.errors import HubError
from asr.files import hash_file

__all__ = ["RemoteFile", "checked", "chosen", "hasher", "sha256"]

_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    size: int  # bytes
    checksum: str  # SHA-256 of the content for large files (LFS), else the SHA-1 of git's blob

    def matches(self, path: Path) -> bool:
        """Whether a local file has this content."""
        found = hasher(self)
        hash_file(found, path)
        return bool(found.hexdigest() == self.checksum)


def hasher(file: RemoteFile) -> Any:
    """A hash object for a file's content, of the type of its checksum."""
    if _SHA256.fullmatch(file.checksum):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def sha256(path: Path) -> str:
    """SHA-256 of a local file."""
    found = hashlib.sha256()
    hash_file(found, path)
    return found.hexdigest()


def checked(where: str, listed: Iterable[Any], refuse: Sequence[str]) -> list[RemoteFile]:
    """The files of a repository.

    Args:
        where: the repository, for messages.
        listed: `RepoFile` and `RepoFolder` of huggingface_hub.
        refuse: patterns of files that the repository must not have.

    Raises:
        HubError: a path leads out of the repository, a file is refused, or a checksum is missing or malformed.
    """
    files: list[RemoteFile] = []
    items = [item for item in listed if hasattr(item, "blob_id")]  # the others are folders
    foreign = any(item.path == "hyperparams.yaml" for item in items)
    advice = f"; for a SpeechBrain model use spellstream import speechbrain {where}" if foreign else ""
    for item in items:
        if _leads_out(item.path):
            raise HubError(f"{where}: refused, since the path of a file leads out of the repository: {item.path!r}")
        if any(fnmatchcase(item.path.lower(), pattern) for pattern in refuse):
            raise HubError(f"{where}: refused, since {item.path} may be a pickle, which can run code{advice}")
        size, checksum = (item.lfs.size, item.lfs.sha256) if item.lfs else (item.size, item.blob_id)
        if not (_SHA256 if item.lfs else _SHA1).fullmatch(str(checksum)) or not isinstance(size, int) or size < 0:
            raise HubError(f"{where}: the hub gives no checksum and size for {item.path}")
        files.append(RemoteFile(item.path, size, checksum))
    return files


def chosen(files: Sequence[RemoteFile], take: Sequence[str]) -> list[RemoteFile]:
    """The files whose path matches a pattern."""
    return [file for file in files if any(fnmatchcase(file.path, pattern) for pattern in take)]


def _leads_out(path: str) -> bool:
    """Whether a path is absolute, goes up, or has another meaning on another system."""
    windows = PureWindowsPath(path)
    odd = "\\" in path or ":" in path or any(ord(c) < 32 for c in path)
    return odd or not path or windows.is_absolute() or path.startswith("/") or ".." in PurePosixPath(path).parts
