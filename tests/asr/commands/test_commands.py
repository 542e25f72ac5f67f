"""The other commands: evaluate, train, plot and info, with stubs for what they call."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import asr
from tests.support.commands import Command, StubRecogniser


def manifest(folder: Path, *rows: tuple[str, str, str | None]) -> Path:
    """A manifest of (name, corpus, text)."""
    lines = (
        {"id": name, "corpus": corpus, "audio": f"{name}.wav", "duration": 2.0, "text": text}
        for name, corpus, text in rows
    )
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    return manifest(
        tmp_path,
        ("one", "clean", "One, again!"),
        ("two", "noisy", "two more again"),
        ("three", "clean", None),
        ("four", "clean", "at 4 o'clock"),
        ("five", "noisy", "something else"),
    )


def test_evaluate(scored: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, err = command("evaluate", scored, "--worst", 1, "--confusions", 2)
    assert (status, err) == (0, "")
    rows = {line.split()[1]: line.split("│") for line in out.splitlines() if line.startswith("│")}
    assert list(rows) == ["clean", "noisy", "total"]
    assert [cell.strip() for cell in rows["total"][2:5]] == ["3", "0.1", "42.86"]  # 3 of 7 words
    assert "2 utterances were left out: no text, or digits or another script in it" in out
    assert "real-time factor" in out
    assert "beam_size 8 · " in out
    assert "five (noisy): 2 errors in 2 words\nREF: something else\nHYP: five      again\n" in out
    assert "one (clean)" not in out
    assert "deletion      more → ***" in out


def test_evaluate_chooses(scored: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, _ = command("evaluate", scored, "--corpus", "noisy", "--limit", 1, "--json", "-", "--beam-size", 2)
    assert status == 0
    scores = json.loads(out)
    assert [one["id"] for one in scores["utterances"]] == ["two"]
    assert scores["summaries"][-1]["words"]["rate"] == pytest.approx(1 / 3)
    assert scores["settings"]["search"]["beam_size"] == 2
    assert scores["real_time_factor"] == pytest.approx(scores["wall_seconds"] / 2.0, abs=1e-3)
    status, _, err = command("evaluate", scored, "--corpus", "quiet")
    assert (status, err) == (1, f"spellstream: {scored}: no corpus 'quiet'; there are clean, noisy\n")


def test_evaluate_goes_on_after_a_failure(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    path = manifest(tmp_path, ("a", "x", "a again"), ("bad", "x", "lost"), ("c", "x", "c again"))
    status, out, err = command("evaluate", path, "--json", tmp_path / "scores.json")
    assert status == 1
    assert err == f"spellstream: bad: {tmp_path}/bad.wav: is not audio\nspellstream: 1 of 3 failed\n"
    assert "total" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [one["id"] for one in scores["utterances"]] == ["a", "c"]  # in order, though heard in another
    assert (scores["failed"], scores["summaries"][-1]["words"]["rate"]) == (1, 0.0)


def test_evaluate_without_anything_to_score(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    path = manifest(tmp_path, ("bad", "x", "lost"))
    assert command("evaluate", path) == (1, "", f"spellstream: bad: {tmp_path}/bad.wav: is not audio\n")
    path = manifest(tmp_path, ("a", "x", None))
    expected = f"spellstream: {path}: none of 1 utterances has a text to compare with\n"
    assert command("evaluate", path) == (1, "", expected)
    assert command("evaluate", tmp_path / "none.jsonl")[0] == 1


TRAIN = ("train", "--data", "data", "--dev", "dev", "--output", "run", "--config")


@pytest.mark.parametrize("arguments", [(*TRAIN, "a.toml"), ("statistics", "prepared")])
def test_a_missing_extra_says_what_to_install(
    arguments: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("asr.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    expected = "spellstream: the package lightning is missing: pip install 'spellstream[train]'\n"
    assert command(*arguments) == (1, "", expected)


def test_plot(command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setitem(sys.modules, "asr.plot", types.SimpleNamespace(plot=lambda *given: drawn.append(given)))
    assert command("plot", "in/talk.wav", "--beam-size", 1) == (0, "talk.wav.png\n", "")
    recogniser, source, output, search = drawn[0]
    assert (recogniser, source, output, search.beam_size) == (stub, "in/talk.wav", Path("talk.wav.png"), 1)
    assert command("plot", "-", "--output", "x.png")[0] == 0
    assert drawn[1][1:3] == ("-", Path("x.png"))


def test_info(command: Command) -> None:
    status, out, err = command("info", "--json")
    assert (status, err) == (0, "")
    known = json.loads(out)
    assert known["versions"]["spellstream"] == asr.__version__
    assert known["versions"].keys() >= {"python", "torch", "torchaudio", "libsndfile", "portaudio", "ffmpeg"}
    assert known["devices"]["cpu"]
    status, out, err = command("info")
    assert (status, err) == (0, "")
    assert f"  spellstream  {asr.__version__}\n" in out
