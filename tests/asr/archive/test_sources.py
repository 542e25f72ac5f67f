"""Expansion of sources to files: folders are searched, manifests are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asr.archive.sinks import Destination, OutputFiles
from asr.archive.sources import find
from asr.errors import AudioError, DataError
from tests.support.archive import files


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "b.WAV", "a.mp3", "deep/er/c.mkv", "notes.txt", ".hidden.wav", ".trash/d.wav")
    assert list(find([str(folder), "notes.txt", "-", "missing.wav"])) == [
        f"{folder}/a.mp3",
        f"{folder}/b.WAV",
        f"{folder}/deep/er/c.mkv",
        "notes.txt",
        "-",
        "missing.wav",
    ]


def test_a_folder_without_audio_is_an_error(tmp_path: Path) -> None:
    (error,) = find([str(files(tmp_path, "notes.txt", "sub/more.txt"))])
    assert str(error) == f"{tmp_path}: no audio file in this folder"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path, "a.wav", "closed/b.wav")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list(find([str(folder)]))
    assert found[0] == f"{folder}/a.wav"
    assert str(found[1]) == f"{folder}/closed: Permission denied"
    assert len(found) == 2


def test_linked_folders_are_not_followed_so_that_a_loop_ends(tmp_path: Path) -> None:
    folder = files(tmp_path, "a.wav")
    (folder / "loop").symlink_to(folder)
    assert list(find([str(folder)])) == [f"{folder}/a.wav"]


def test_a_pipe_in_a_folder_is_an_error(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to waits forever: one in a folder stopped the whole run."""
    for name in ("a.wav", "c.wav"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "b.wav")
    (tmp_path / "linked.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "missing.wav").symlink_to(tmp_path / "nothing")
    first, pipe, third, linked, missing = find([str(tmp_path)])
    assert (first, third, missing) == tuple(str(tmp_path / name) for name in ("a.wav", "c.wav", "missing.wav"))
    assert str(pipe) == f"{tmp_path / 'b.wav'}: is a pipe, socket or device, not a file"
    assert isinstance(linked, AudioError)


def test_a_manifest_stands_for_the_files_it_lists(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    line = '{{"id": "{0}", "audio": "../audio/{1}", "duration": 1, "text": null}}\n'
    manifest.write_text(line.format(1, "deep/b.wav") + "{}\n" + line.format(2, "a.wav"))
    found = list(find([str(manifest), str(tmp_path / "missing.jsonl")]))
    audio = tmp_path.parent / "audio"
    assert [str(one) for one in found] == [
        f"{audio}/deep/b.wav",
        f"{manifest}:2: no audio; expected a field named audio or audio_filepath",
        f"{audio}/a.wav",
        f"{tmp_path}/missing.jsonl: cannot be read: No such file or directory",
    ]
    assert [isinstance(one, DataError) for one in found] == [False, True, False, True]
    out = OutputFiles([str(manifest)], Destination(folder=tmp_path / "out"))
    assert out.paths(f"{audio}/deep/b.wav") == [tmp_path / "out/deep/b.txt"]


def test_tables_are_manifests_too(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,sentence_id\na.wav,1\nb.wav,2\n")
    (tmp_path / "nemo.json").write_text('{"audio_filepath": "c.wav", "duration": 1, "text": "x"}\n')
    found = list(find([str(tmp_path / "m.csv"), str(tmp_path / "nemo.json")]))
    assert found == [f"{tmp_path}/a.wav", f"{tmp_path}/b.wav", f"{tmp_path}/c.wav"]
