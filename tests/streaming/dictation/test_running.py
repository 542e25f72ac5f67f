"""The lock of the running dictation, which limits it to one and finds it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asr.errors import ConfigError, DataError
from streaming.dictation import running as module
from streaming.dictation.running import Lock, folder, running


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_the_lock_tells_who_runs() -> None:
    assert running() is None
    lock = Lock.take()
    assert lock is not None
    lock.write(os.getpid(), "listening")
    assert Lock.take() is None
    assert running() == (os.getpid(), "listening")
    lock.write(7, "paused")
    assert running() == (7, "paused")
    lock.close()
    assert running() is None


def test_a_file_that_was_left_is_nobodys() -> None:
    (folder() / "dictate.pid").write_text(f"{os.getpid()} listening\n")
    assert running() is None
    lock = Lock.take()
    assert lock is not None
    lock.close()


def test_who_only_looks_does_not_hold_it() -> None:
    fd = os.open(folder() / "dictate.pid", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [fd]).start()
    lock = Lock.take()
    assert lock is not None
    lock.close()


def test_a_process_that_inherits_the_lock_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock.take()
    assert lock is not None
    given = [sys.executable, "-c", "input()"]
    with subprocess.Popen(given, stdin=subprocess.PIPE, pass_fds=[lock.fd]) as process:
        lock.write(process.pid, "starting")
        lock.close()
        assert running() == (process.pid, "starting")
        process.communicate(b"\n")
    assert running() is None


def test_a_lock_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITTEN_SECONDS", 0.0)
    lock = Lock.take()
    assert lock is not None
    for content in (b"", b"0 x", b"-1 x", b"\xff x"):
        os.ftruncate(lock.fd, 0)
        os.pwrite(lock.fd, content, 0)
        with pytest.raises(DataError, match=r"dictate\.pid: locked, but by no dictation"):
            running()
    lock.close()


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spellstream").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        running()
