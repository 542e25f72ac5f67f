"""Atomic writes, hashes, absolute paths without resolved links, and the user's home folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.errors import DataError

__all__ = ["absolute", "hash_file", "replacing", "require_folder", "user_home", "write_atomically"]


def absolute(path: str | Path) -> str:
    """The absolute path, lexically: links are not resolved, so a linked file keeps its own name."""
    return os.path.normpath(Path(path).absolute())


def hash_file(digest: Any, path: Path) -> None:
    """Update a hash object of `hashlib` with a file's content, in constant memory."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def user_home() -> Path:
    """The user's home folder; without one, `/nonexistent`, the name that Debian gives to a missing one.

    A container may run under a user id that no account has, without `HOME`.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def require_folder(path: Path) -> None:
    """Check that the folder of an output file exists, before the work that leads to the file.

    Raises:
        DataError: it does not.
    """
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: its folder does not exist")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) atomically: `path` holds either its old content or all of the new.

    The folder must exist. A device or pipe (`/dev/stdout`) is written to directly, since it must not be replaced.

    Raises:
        DataError: the file cannot be written; nothing is left behind.
    """
    # File names that are not valid UTF-8 arrive with lone surrogates; this escape is valid in JSON.
    data = content if isinstance(content, bytes) else content.encode("utf-8", errors="backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, which replaces it if the block succeeds.

    For large content: the next attempt writes to the same path, so that killed attempts leave one file, not many.
    Otherwise see `write_atomically`.

    Raises:
        DataError: the block raised an OSError: the file cannot be written. Nothing is left behind.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    # In the same folder, because a rename is atomic only within one file system. Not made by `tempfile`, which would
    # give the final file the mode 0600 regardless of the user's umask.
    temporary = path.with_name(f".spellstream-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
