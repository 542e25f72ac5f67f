"""The dictation that runs: at most one for each user's session, found by a locked file.

The lock tells whether it runs, so that a file left by a killed one, or a process number that another program has now,
is never taken for it.
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
WRITTEN_SECONDS = 2.0  # a lock that was just taken has its process number by then


class Running(NamedTuple):
    """A dictation that runs."""

    pid: int
    state: str

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that has just ended is no error."""
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
            fcntl.flock(fd, fcntl.LOCK_UN)  # another process only looks whether a dictation runs, for a moment
            time.sleep(0.01)
        os.ftruncate(fd, 0)
        return cls(fd)

    def write(self, pid: int, state: State) -> None:
        """Tell who runs, and what it does."""
        content = f"{pid} {state}\n".encode()
        os.pwrite(self.fd, content.ljust(32), 0)

    def close(self) -> None:
        """Release the lock, unless another process has inherited it."""
        os.close(self.fd)


def running() -> Running | None:
    """The dictation that runs, if there is one.

    Raises:
        DataError: its file does not tell its process number.
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
    """Hold a signal back, also for a process that is started meanwhile, until that lets it through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def folder() -> Path:
    """Where the lock and the log of a dictation in the background are: a folder of the user's own.

    Raises:
        ConfigError: there is one of that name that belongs to somebody else.
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
