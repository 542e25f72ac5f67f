"""Atomic writing: files appear complete or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from asr.errors import DataError
from asr.files import absolute, replacing, write_atomically


def test_absolute_paths_keep_the_names_of_links(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "target.wav")
    assert absolute(tmp_path / "sub" / ".." / "link.wav") == f"{tmp_path}/link.wav"


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_atomically(path, "old\n")
    write_atomically(path, "zoë\n")
    assert path.read_bytes() == "zoë\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_removes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    write_atomically(path, "old\n")

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(DataError, match=r"out\.txt: cannot be written: No space left on device"):
        write_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "out.txt", "x")
    with pytest.raises(DataError, match="cannot be written"):
        write_atomically(tmp_path, "x")


@pytest.mark.skipif(os.name != "posix", reason="modes, links and undecodable names are POSIX matters")
def test_posix_files(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "out.json"
    plain.touch()
    # A name that is not UTF-8 reaches Python with lone surrogates, and the file must still be readable.
    write_atomically(path, json.dumps(os.fsdecode(b"\xff.wav"), ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == os.fsdecode(b"\xff.wav")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    link = tmp_path / "link"
    link.symlink_to(plain)
    write_atomically(link, "through")
    assert link.is_symlink()
    assert plain.read_text() == "through"

    write_atomically(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_a_library_writes_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    with replacing(path) as part:
        assert part.suffix == ".npz"  # a library may add its own suffix
        part.write_text("old")

    def fill() -> None:
        with replacing(path) as part:
            part.write_text("half of the new")
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"text\.npz: cannot be written: No space left on device"):
        fill()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
