"""`spellstream models` and `download`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import asr
from asr import checkpoint, folders
from asr.config import LmConfig, SearchConfig
from asr.errors import CheckpointError, HubError
from asr.model.lm import LanguageModel
from tests.support.commands import Command
from tests.support.hub_server import HubServer, serving_hub
from tests.support.small_model import small_model
from tests.support.speechbrain_folder import speechbrain_folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("SPELLSTREAM_HOME", str(tmp_path / "own"))
    with serving_hub(monkeypatch, cache) as server:
        server.add("ann/tiny", small_model(tmp_path / "published"))
        yield server


def test_models_are_listed_with_size_revision_and_place(command: Command, hub: HubServer, tmp_path: Path) -> None:
    own = small_model(tmp_path / "own" / "models" / "mine")
    (own / "source.json").write_text(json.dumps({"source": "hub:bob/las", "revision": "ab" * 20}))
    assert command("download", "ann/tiny")[0] == 0

    status, out, _ = command("models", "--json")
    assert status == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "default": "shipped",
        "mine": "own",
        "hub:ann/tiny": "cached",
    }
    assert rows["mine"]["revision"] == "ab" * 20
    assert rows["hub:ann/tiny"]["revision"] == hub.commit("ann/tiny")
    assert rows["hub:ann/tiny"]["bytes"] == sum(map(len, hub.repositories["ann/tiny"].values()))
    assert all(Path(row["folder"], "config.json").is_file() for row in rows.values())

    status, out, _ = command("models")
    assert [line.split()[0] for line in out.splitlines()] == list(rows)
    assert hub.commit("ann/tiny")[:12] in out


def test_every_name_in_the_list_is_a_model(command: Command, hub: HubServer, tmp_path: Path) -> None:
    small_model(tmp_path / "own" / "models" / "mine")
    assert command("download", "ann/tiny")[0] == 0
    hub.repositories["ann/tiny"]["LICENSE"] = b"do what you like"
    assert command("download", "ann/tiny")[0] == 0
    names = [row["name"] for row in json.loads(command("models", "--json")[1])]
    assert len(names) == 4, "the older revision is still there, by its commit"
    for name in names:
        status, _, said = command("info", "--model", name)
        assert status == 0, said


def test_a_model_is_imported_by_name_and_found_by_name(command: Command, hub: HubServer, tmp_path: Path) -> None:
    """Without --output, import puts the model among the user's own models, where --model finds it by name."""
    hub.add("ann/las", speechbrain_folder(tmp_path / "theirs"))
    status, out, said = command("import", "speechbrain", "hub:ann/las")
    assert (status, out) == (0, f"{tmp_path / 'own' / 'models' / 'las'}\n"), said
    (row,) = (row for row in json.loads(command("models", "--json")[1]) if row["name"] == "las")
    assert (row["kind"], row["revision"]) == ("own", hub.commit("ann/las"))
    assert command("info", "--model", "las")[0] == 0
    assert command("import", "speechbrain", tmp_path / "theirs")[:2] == (0, f"{tmp_path / 'own/models/theirs'}\n")
    assert "already exists" in command("import", "speechbrain", "hub:ann/las")[2]


def test_the_ctc_head_of_an_imported_model_is_offered(command: Command, tmp_path: Path) -> None:
    """The recipe's search has no CTC weight: import says so, and saves a given --ctc-weight with the model."""
    theirs = speechbrain_folder(tmp_path / "theirs")
    for name, options, weight in (("as-theirs", (), 0.0), ("with-ctc", ("--ctc-weight", "0.3"), 0.3)):
        status, _, said = command("import", "speechbrain", theirs, "--output", tmp_path / name, *options)
        assert status == 0, said
        assert json.loads((tmp_path / name / "config.json").read_text())["search"]["ctc_weight"] == weight
        assert ("--ctc-weight 0.3" in said) == (not options)
    assert command("import", "speechbrain", theirs, "--output", tmp_path / "more", "--ctc-weight", "2")[0] == 2


def test_a_language_model_is_named_as_a_model_is(hub: HubServer, tmp_path: Path) -> None:
    model = small_model(tmp_path / "own" / "models" / "mine")
    tokenizer = checkpoint.load(model).tokenizer
    words = tmp_path / "own" / "models" / "words"
    lm = LanguageModel(LmConfig(len(tokenizer), embedding_size=4, hidden_size=4))
    checkpoint.save_lm(words, lm, tokenizer)
    hub.add("ann/words", words)
    for name in ("words", "hub:ann/words", words):
        assert asr.load("mine", device="cpu", lm=name).language_model(SearchConfig(lm_weight=1.0)) is not None
    assert sorted(hub.downloads()) == ["lm.json", "lm.safetensors"]
    with pytest.raises(HubError, match=r"hub:ann/tiny.* contains none of the files lm\.json"):
        asr.load("mine", device="cpu", lm="hub:ann/tiny")


def test_what_is_downloaded_is_printed(command: Command, hub: HubServer, cache: Path) -> None:
    status, out, said = command("download", "ann/tiny", "--quiet")
    assert status == 0
    assert Path(out.strip()) == cache / "models--ann--tiny" / "snapshots" / hub.commit("ann/tiny")
    hub.repositories["ann/other"] = {"README.md": b"pictures"}
    status, out, said = command("download", "hub:ann/other")
    assert (status, out) == (1, "")
    assert "has no config.json" in said


def test_ctrl_c_loses_nothing(hub: HubServer, tmp_path: Path) -> None:
    """`download`, interrupted by Ctrl-C and run again, requests only the rest of the file."""
    hub.repositories["ann/tiny"]["model.safetensors"] = os.urandom(3_000_000)
    hub.pause_seconds = 0.02
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    line = [sys.executable, "-m", "asr", "download", "ann/tiny"]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    while not any(path.stat().st_size for path in tmp_path.rglob("*.incomplete")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    while not any(path.stat().st_size > 100_000 for path in tmp_path.rglob("*.incomplete")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("spellstream: interrupted: the same command resumes from here\n")

    hub.pause_seconds = 0
    subprocess.run(line, env=environment, check=True, capture_output=True)
    begun = [int(each.rpartition("bytes=")[2][:-1]) for each in hub.downloads() if "bytes=" in each]
    assert begun
    assert begun[-1] > 100_000


def test_a_user_without_a_home_folder_gets_models_all_the_same(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a container whose user id has no account, every command ended in a traceback."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "SPELLSTREAM_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)

    assert folders.find("default").is_dir()
    status, out, _ = command("models")
    assert status == 0
    assert "default" in out
    status, _, err = command("transcribe", "talk.wav", "--model", "nosuch")
    assert status == 1
    assert "no such file" in err
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="nosuch: neither a checkpoint folder nor the name of a model"):
        folders.find("nosuch")
