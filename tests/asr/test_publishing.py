"""`spellstream publish`: the files that others download, and the model card for the hub."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from asr.folders import FILES
from tests.support.commands import Command
from tests.support.hub_server import serving_hub
from tests.support.small_model import small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_model(tmp_path / "tiny")


def settings_of(folder: Path) -> dict[str, object]:
    _, settings, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(settings)
    assert isinstance(found, dict)
    return found


def scores(path: Path) -> Path:
    """The relevant part of `evaluate --json`."""
    summary = {"name": "test-other", "words": {"rate": 0.12345}, "characters": {"rate": 0.05}}
    path.write_text(json.dumps({"summaries": [summary]}))
    return path


def test_what_is_published_is_downloaded_and_says_the_same(
    command: Command, folder: Path, tmp_path: Path, repository_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, output = repository_root / "recipes" / "sample.flac", tmp_path / "upload"
    status, out, said = command("publish", folder, "--output", output, "--repository", "ann/tiny")
    assert status == 0, said
    assert out == f"hf upload ann/tiny {output} .\n"
    with serving_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.add("ann/tiny", output)
        status, out, said = command("download", "ann/tiny", "--quiet")
        assert status == 0, said
        brought = Path(out.strip())
        assert {path.name for path in brought.iterdir()} == {path.name for path in output.iterdir()} & set(FILES)
        texts = [command("transcribe", sample, "--model", name) for name in (folder, "hub:ann/tiny")]
        assert texts[0][:2] == texts[1][:2]
        assert texts[0][1].strip()

        lists = hub.repositories["ann/tiny"]["SHA256SUMS"]
        hub.repositories["ann/tiny"]["config.json"] += b" "
        status, _, said = command("download", "ann/tiny", "--quiet")
        assert (status, lists.count(b"config.json")) == (1, 1)
        assert "does not match its checksum in SHA256SUMS" in said


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_the_checksums_are_those_of_sha256sum(command: Command, folder: Path, tmp_path: Path) -> None:
    assert command("publish", folder, "--output", tmp_path / "upload")[0] == 0
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "upload", capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"README.md" not in (tmp_path / "upload" / "SHA256SUMS").read_bytes(), "it may be edited on the hub"


def test_only_the_files_of_a_model_are_copied(command: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE").write_text("do what you like")
    (folder / "optimiser.pt").write_bytes(b"\x80")
    (folder / "log").mkdir()
    assert command("publish", folder, "--output", tmp_path / "upload")[0] == 0
    published = {path.name for path in (tmp_path / "upload").iterdir()}
    model = {"config.json", "model.safetensors", "tokenizer.model", "LICENSE"}
    assert published == model | {"README.md", "SHA256SUMS", ".gitattributes"}


def test_the_card_says_what_the_hub_shows(command: Command, folder: Path, tmp_path: Path) -> None:
    source = {"source": "hub:bob/las@v1", "toolkit": "speechbrain", "revision": "ab" * 20, "licence": "mit"}
    (folder / "source.json").write_text(json.dumps(source))
    options = ("--repository", "ann/dutch", "--language", "nl", "--tag", "radio", "--metrics", scores(tmp_path / "s"))
    status, _, said = command("publish", folder, "--output", tmp_path / "upload", *options)
    assert (status, "the card" in said) == (0, False)
    settings = settings_of(tmp_path / "upload")
    assert settings["license"] == "mit"
    assert settings["language"] == ["nl"]
    assert settings["base_model"] == "bob/las"
    assert settings["library_name"] == "spellstream"
    assert settings["pipeline_tag"] == "automatic-speech-recognition"
    assert "radio" in settings["tags"]  # type: ignore[operator]
    assert "12.3" in json.dumps(settings["model-index"])
    text = (tmp_path / "upload" / "README.md").read_text(encoding="utf-8")
    assert "--model hub:ann/dutch" in text
    assert source["revision"] in text


def test_a_card_keeps_its_text_and_what_it_says(command: Command, folder: Path, tmp_path: Path) -> None:
    """A card keeps its text and settings, also when a published folder is published again."""
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\nmood: good\ntags: [birds]\n---\n\n# Birds\n\nÄ – sing.\n")
    rates = ("--metrics", scores(tmp_path / "s"))
    for source, output, more in ((folder, "one", rates), (tmp_path / "one", "two", ())):
        status, _, said = command("publish", source, "--output", tmp_path / output, "--repository", "a/b", *more)
        assert status == 0
        assert "names no language" in said
        assert "error rates" not in said
    settings, text = settings_of(tmp_path / "two"), (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert settings == settings_of(tmp_path / "one")
    assert (settings["license"], settings["mood"]) == ("cc0-1.0", "good")
    assert settings["tags"][0] == "birds"  # type: ignore[index]
    assert text.endswith("---\n\n# Birds\n\nÄ – sing.\n")


def test_nothing_broken_is_published(command: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "lm.json").write_text("{}")
    status, _, said = command("publish", folder, "--output", tmp_path / "upload")
    assert (status, said.count("lm.json")) == (1, 1)
    assert not (tmp_path / "upload").exists()


def test_wrong_use_is_told_in_a_line(command: Command, folder: Path, tmp_path: Path) -> None:
    def told(*options: object, model: object = folder) -> str:
        status, _, said = command("publish", model, *options)
        assert status == 1
        return said.splitlines()[-1]

    upload = ("--output", tmp_path / "upload")
    assert "already exists" in told("--output", folder)
    assert "not the name of a repository" in told(*upload, "--repository", "../x")
    assert "neither a checkpoint folder" in told(*upload, model="nowhere")
    assert "No such file" in told(*upload, "--metrics", tmp_path / "none.json")
    for wrong in ("", "[]", "{}", '{"summaries": []}', '{"summaries": [{"name": 3}]}', "[" * 100_000):
        (tmp_path / "wrong.json").write_text(wrong)
        assert "no error rates" in told(*upload, "--metrics", tmp_path / "wrong.json")
    (folder / "README.md").write_text("---\n: : [\n---\ntext")
    assert "README.md cannot be read" in told(*upload)
    assert not (tmp_path / "upload").exists()
