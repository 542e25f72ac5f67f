"""The running dictation: at most one per user session, found by a locked file.

Only the lock shows that it runs, so that a file left by a killed process, or a reused process number, is never mistaken
for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from asr.errors import ConfigError, DataError

__all__ = ["Lock", "Running", "State", "deferred", "folder", "running"]

State: TypeAlias = Literal["starting", "listening", "paused"]
WRITTEN_SECONDS = 2.0  # time for a new holder of the lock to write its process number


class Running(NamedTuple):
    """A running dictation."""

    pid: int
    state: str

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; it is no error if it has just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Lock:
    """The lock of the running dictation, which holds its process number and state.

    Args:
        fd: the open, locked file.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls) -> Lock | None:
        """The lock, or None if a dictation runs."""
        fd = _open()
        while not _locked(fd, fcntl.LOCK_EX):
            if not _locked(fd, fcntl.LOCK_SH):
                os.close(fd)
                return None
            fcntl.flock(fd, fcntl.LOCK_UN)  # another process only checks for a dictation, for a moment
            time.sleep(0.01)
        os.ftruncate(fd, 0)
        return cls(fd)

    def write(self, pid: int, state: State) -> None:
        """Write the process number and the state."""
        content = f"{pid} {state}\n".encode()
        os.pwrite(self.fd, content.ljust(32), 0)

    def close(self) -> None:
        """Release the lock, unless another process has inherited it."""
        os.close(self.fd)


def running() -> Running | None:
    """The running dictation, if there is one.

    Raises:
        DataError: its file has no process number.
    """
    deadline = time.monotonic() + WRITTEN_SECONDS
    while True:
        fd = _open()
        try:
            if _locked(fd, fcntl.LOCK_SH):
                return None
            pid, _, state = os.pread(fd, 64, 0).decode(errors="replace").strip().partition(" ")
        finally:
            os.close(fd)
        if pid.isascii() and pid.isdigit() and int(pid) > 1:
            return Running(int(pid), state)
        if time.monotonic() > deadline:
            raise DataError(f"{_path()}: locked, but by no dictation")
        time.sleep(0.02)


@contextlib.contextmanager
def deferred(number: signal.Signals) -> Iterator[None]:
    """Block a signal within the block; a process started there inherits this, until it unblocks the signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def folder() -> Path:
    """The user's own folder for the lock and the log of a dictation in the background.

    Raises:
        ConfigError: a folder of that name belongs to another user.
    """
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    path = Path(given) / "spellstream" if given else Path(tempfile.gettempdir()) / f"spellstream-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(f"{path}: belongs to somebody else; set XDG_RUNTIME_DIR")
    return path


def _locked(fd: int, kind: int) -> bool:
    """Lock the file if that is possible at once."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path() -> Path:
    return folder() / "dictate.pid"


def _open() -> int:
    return os.open(_path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
