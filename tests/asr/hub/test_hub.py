"""Models from the hub: only verified files of one commit are used, downloads resume, and no foreign code is run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asr import checkpoint, folders
from asr.errors import CheckpointError, DependencyError, HubError
from asr.hub import fetch, snapshot
from asr.hub.listing import sha256
from tests.support.commands import Command
from tests.support.hub_server import LARGE, HubServer, serving_hub
from tests.support.small_model import small_model
from tests.support.speechbrain_folder import speechbrain_folder

NAME = "hub:ann/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("published"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving_hub(monkeypatch, cache) as server:
        server.add("ann/tiny", folder)
        yield server


def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on there is no connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- What is downloaded


def test_a_model_is_found_by_its_name_on_the_hub(hub: HubServer, folder: Path) -> None:
    """The downloaded folder is named after the commit and has only the files of our format."""
    hub.repositories["ann/tiny"] |= {"train.py": b"raise SystemExit", "pictures/model.safetensors": b"x"}
    found = folders.find(NAME)
    assert files(found) == files(folder)
    assert found.name == hub.commit("ann/tiny")
    assert checkpoint.load(NAME).folder == found


def test_a_second_time_nothing_is_downloaded(hub: HubServer) -> None:
    first = folders.find(NAME)
    hub.asked.clear()
    assert folders.find(NAME) == first
    assert hub.downloads() == []
    assert folders.find(f"{NAME}@{first.name}") == first
    assert sum("/revision/" in each for each in hub.asked) == 1, "a commit never changes, so the hub was not asked"


def test_a_changed_branch_is_another_commit_and_the_old_one_stays(hub: HubServer) -> None:
    old = folders.find(NAME)
    hub.repositories["ann/tiny"]["LICENSE"] = b"do what you like"
    hub.asked.clear()
    new = folders.find(NAME)
    assert new != old
    assert hub.downloads() == ["LICENSE"]
    assert folders.find(f"{NAME}@{old.name}") == old


def test_a_cut_download_goes_on_where_it_stopped(hub: HubServer, folder: Path, cache: Path) -> None:
    """A download whose connection breaks on every request resumes, within a run and in the next one."""
    size = (folder / WEIGHTS).stat().st_size
    hub.cut_after[WEIGHTS] = size // 3
    assert files(folders.find(NAME)) == files(folder)
    begun = [int(each.rpartition("bytes=")[2][:-1]) for each in hub.downloads() if each.startswith(WEIGHTS + " ")]
    assert begun == [size // 3, size // 3 * 2, size // 3 * 3][: len(begun)]


def test_an_interrupted_download_goes_on_in_the_next_run(
    hub: HubServer, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(size: int) -> None:
        if size > LARGE:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "byte_progress", lambda total, show: contextlib.nullcontext(advance))
        with pytest.raises(KeyboardInterrupt, match="resumes from here"):
            folders.find(NAME)
    (part,) = cache.rglob("*.incomplete")
    kept = part.stat().st_size
    assert 0 < kept < (folder / WEIGHTS).stat().st_size
    assert not (cache / "models--ann--tiny" / "snapshots").exists()

    hub.asked.clear()
    assert files(folders.find(NAME)) == files(folder)
    assert f"{WEIGHTS} bytes={kept}-" in hub.downloads()
    assert list(cache.rglob("*.incomplete")) == []


def test_a_server_that_knows_no_ranges_sends_the_file_again(hub: HubServer, folder: Path, cache: Path) -> None:
    hub.cut_after[WEIGHTS], hub.ranges = 5_000, False
    with pytest.raises(HubError, match=rf"{WEIGHTS}: cut at 5000 of \d+ bytes .* the same command resumes"):
        folders.find(NAME)
    hub.cut_after.clear()
    assert files(folders.find(NAME)) == files(folder)


# --- What is refused


def test_a_file_with_another_checksum_is_deleted(hub: HubServer, cache: Path) -> None:
    hub.wrong.add(WEIGHTS)
    with pytest.raises(HubError, match=rf"{WEIGHTS}: .* does not match the hub's checksum"):
        folders.find(NAME)
    assert not list(cache.rglob("*.incomplete"))
    hub.wrong.clear()
    assert folders.find(NAME).is_dir()


def test_a_small_file_is_checked_as_well(hub: HubServer) -> None:
    hub.wrong.add("config.json")
    assert len(hub.repositories["ann/tiny"]["config.json"]) < LARGE
    with pytest.raises(HubError, match=r"config\.json: .* does not match the hub's checksum"):
        folders.find(NAME)


def test_the_folder_s_own_list_of_checksums_counts(hub: HubServer, folder: Path) -> None:
    """SHA256SUMS detects a file that was changed before its upload, which the hub's checksums cannot."""
    sums = f"{sha256(folder / WEIGHTS)}  {WEIGHTS}\n"
    hub.repositories["ann/tiny"]["SHA256SUMS"] = sums.encode()
    assert folders.find(NAME).is_dir()
    hub.repositories["ann/tiny"]["SHA256SUMS"] = sums.replace(sums[0], "f" if sums[0] != "f" else "0", 1).encode()
    with pytest.raises(HubError, match=rf"{WEIGHTS}: does not match its checksum in SHA256SUMS"):
        folders.find(NAME)


@pytest.mark.parametrize("name", ["model.pkl", "more/asr.ckpt", "pytorch_model.BIN", "lm.pt"])
def test_a_repository_with_a_pickle_is_refused_by_name(hub: HubServer, cache: Path, tmp_path: Path, name: str) -> None:
    """A repository with a pickle is refused before any of its files is downloaded."""
    mark = tmp_path / "run"
    hub.repositories["ann/tiny"][name] = b"cposix\nsystem\n(S'touch %s'\ntR." % os.fsencode(mark)
    with pytest.raises(HubError, match=f"hub:ann/tiny: refused, since {name} may be a pickle"):
        folders.find(NAME)
    assert hub.downloads() == []
    assert not cache.exists() or not any(path.is_file() for path in cache.rglob("*"))
    assert not mark.exists()


def test_a_caller_that_reads_pickles_as_data_gets_what_it_asks_for(hub: HubServer) -> None:
    hub.repositories["ann/tiny"] |= {"asr.ckpt": b"weights", "hyperparams.yaml": b"a: 1"}
    with pytest.raises(HubError, match="for a SpeechBrain model use spellstream import speechbrain hub:ann/tiny"):
        folders.find(NAME)
    found = fetch(NAME, take=("*.ckpt", "hyperparams.yaml"), refuse=())
    assert files(found.folder) == {"asr.ckpt": b"weights", "hyperparams.yaml": b"a: 1"}


def test_a_model_of_speechbrain_is_imported_by_its_name(hub: HubServer, command: Command, tmp_path: Path) -> None:
    """Import downloads only the files that it needs, and records their origin beside the model."""
    hub.add("ann/las", speechbrain_folder(tmp_path / "theirs"))
    hub.repositories["ann/las"] |= {"README.md": b"---\nlicense: apache-2.0\n---\n", "run.py": b"print()"}
    status, out, said = command("import", "speechbrain", "hub:ann/las@v1", "--output", tmp_path / "las")
    assert (status, out) == (0, f"{tmp_path / 'las'}\n"), said
    assert sorted(hub.downloads()) == [
        *("README.md", "asr.ckpt", "hyperparams.yaml", "lm.ckpt", "normalizer.ckpt", "tokenizer.ckpt"),
    ]
    facts = json.loads((tmp_path / "las" / "source.json").read_text())
    assert facts["source"] == "hub:ann/las@v1"
    assert (facts["revision"], facts["licence"]) == (hub.commit("ann/las"), "apache-2.0")

    assert command("import", "speechbrain", tmp_path / "theirs", "--output", tmp_path / "same")[0] == 0
    for name in ("model.safetensors", "lm.safetensors", "tokenizer.model", "config.json"):
        assert (tmp_path / "las" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_a_model_of_speechbrain_with_code_is_refused(hub: HubServer, command: Command, tmp_path: Path) -> None:
    hub.add("ann/las", speechbrain_folder(tmp_path / "theirs"))
    trap = tmp_path / "trap"
    torch.save({"weight": Trap(trap)}, tmp_path / "asr.ckpt")
    hub.repositories["ann/las"]["asr.ckpt"] = (tmp_path / "asr.ckpt").read_bytes()
    status, out, said = command("import", "speechbrain", "hub:ann/las", "--output", tmp_path / "las")
    assert (status, out) == (1, "")
    assert "asr.ckpt: not a checkpoint of only tensors, so it is not loaded" in said.splitlines()[-1]
    assert not trap.exists()
    assert not (tmp_path / "las").exists()


@pytest.mark.parametrize(
    "path", ["../model.safetensors", "/etc/model.safetensors", "a/../../b", "..\\b", "C:/b", "a\nb", ""]
)
def test_a_path_that_leads_out_is_refused(hub: HubServer, path: str) -> None:
    hub.repositories["ann/tiny"][path] = b"x" * LARGE
    with pytest.raises(HubError, match="the path of a file leads out of the repository"):
        folders.find(NAME)
    assert hub.downloads() == []


@pytest.mark.parametrize(
    "name", ["hub:", "hub:tiny", "hub:ann/../x", "hub:a/b/c", "hub:ann/tiny@", "hub:ann/tiny@../x", "hub:ann/ti ny"]
)
def test_a_name_that_is_none_is_refused_without_asking(hub: HubServer, name: str) -> None:
    with pytest.raises(HubError, match=r"(not the name of a repository|no valid revision)"):
        folders.find(name)
    assert hub.asked == []


def test_what_is_not_there_is_said(hub: HubServer) -> None:
    with pytest.raises(HubError, match="hub:ann/none: the hub has no such repository"):
        folders.find("hub:ann/none")
    with pytest.raises(HubError, match="hub:ann/tiny@v9: the repository has no such revision"):
        folders.find(NAME + "@v9")
    hub.repositories["ann/other"] = {"README.md": b"pictures"}
    with pytest.raises(CheckpointError, match=r"hub:ann/other: the repository has no config\.json"):
        folders.find("hub:ann/other")


# --- No connection


def test_without_a_connection_the_cache_is_used_and_that_is_said(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = folders.find(NAME)
    capsys.readouterr()
    gone(monkeypatch)
    assert folders.find(NAME) == found
    said = capsys.readouterr().err
    assert re.fullmatch(rf"spellstream: {NAME}: no connection .*; using the cached revision {found.name[:12]}\n", said)
    assert folders.find(f"{NAME}@{found.name}") == found
    assert not capsys.readouterr().err, "a commit needs no connection"


def test_without_a_connection_and_without_a_cache_there_is_one_clear_line(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    gone(monkeypatch)
    status, out, said = command("info", "--model", NAME)
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"(.*loading.*\n)?spellstream: {NAME}: no connection .*, and it is not in the cache\n", said)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_model_of_which_another_program_cached_a_file_is_completed(
    hub: HubServer, folder: Path, pinned: bool
) -> None:
    """A single cached file was taken for the whole model, on every run."""
    import huggingface_hub

    commit = hub.commit("ann/tiny")
    huggingface_hub.hf_hub_download("ann/tiny", "config.json", revision=commit)
    assert files(folders.find(f"{NAME}@{commit}" if pinned else NAME)) == files(folder)


@pytest.mark.parametrize("connected", [True, False])
def test_a_model_cached_without_a_listing_of_its_files_is_used(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    """Earlier versions of huggingface_hub stored no listing."""
    first = folders.find(NAME)
    for listing in list(cache.rglob("trees")):
        shutil.rmtree(listing)
    hub.asked.clear()
    if not connected:
        gone(monkeypatch)
    assert folders.find(f"{NAME}@{first.name}") == first
    assert hub.downloads() == []


def test_a_refusal_does_not_take_away_what_was_downloaded(hub: HubServer, cache: Path) -> None:
    first = folders.find(NAME)
    for listing in list(cache.rglob("trees")):
        shutil.rmtree(listing)
    del hub.repositories["ann/tiny"]
    assert folders.find(f"{NAME}@{first.name}") == first
    with pytest.raises(HubError):
        folders.find(NAME)


def test_half_a_model_in_the_cache_is_not_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders.find(NAME) / WEIGHTS).unlink()
    gone(monkeypatch)
    with pytest.raises(HubError, match="not in the cache"):
        folders.find(NAME)


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"huggingface_hub is missing: pip install 'spellstream\[hub\]'"):
        folders.find(NAME)
