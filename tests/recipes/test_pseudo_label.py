"""Pseudo-labels: the surest transcripts of speech without a text become a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asr.archive import manifest
from asr.archive.manifest import Utterance
from recipes.default_model import pseudo_label


def row(audio: Path, text: str | None, *scores: float) -> dict[str, Any]:
    """As `spellstream transcribe --output` writes it, a score a segment."""
    return {"source": str(audio), "text": text, "segments": [{"score": score} for score in scores]}


@pytest.fixture
def heard(tmp_path: Path) -> list[str]:
    """The arguments that name a manifest of four utterances and what was heard of them."""
    audio = [tmp_path / f"{name}.wav" for name in "abcd"]
    texts = ("one two", "three", "four", None)
    manifest.write(
        tmp_path / "m.jsonl",
        [Utterance(a.stem, a, 1800.0, text, "c", "s") for a, text in zip(audio, texts, strict=True)],
    )
    rows = [
        row(audio[0], "one to", -3.0, -1.0),  # -2 a word
        row(audio[1], "three", -1.0),
        row(audio[2], None),  # could not be read
        row(audio[3], "so", -9.0),
        row(tmp_path / "other.wav", "not of this manifest", 0.0),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return [str(tmp_path / "m.jsonl"), str(tmp_path / "rows.jsonl")]


def test_the_surest_share_becomes_a_manifest(
    heard: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"
    assert pseudo_label.main(["keep", *heard, "--share", "0.67", "--output", str(kept)]) == 0
    assert [(u.id, u.text, u.speaker) for u in manifest.read(kept)] == [("b", "three", "s"), ("a", "one to", "s")]
    assert capsys.readouterr().out == f"{kept}: 2 utterances, 1.00 h\n"


def test_shares_are_told_with_their_errors(heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One word of three is wrong; what has no text to compare with does not count."""
    assert pseudo_label.main(["shares", *heard]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the best  10%: score of a word from  -1.00, WER   0.0 %"
    assert lines[-1] == "the best 100%: score of a word from  -2.00, WER  33.3 %"


@pytest.mark.parametrize(
    "content", ["", "{}\n", "not JSON\n", '{"source": "/elsewhere", "text": "a", "segments": []}\n']
)
def test_rows_that_are_none_are_one_line(heard: list[str], content: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Path(heard[1])
    rows.write_text(content, encoding="utf-8")
    assert pseudo_label.main(["shares", *heard]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pseudo_label: {rows}: ")
    assert error.count("\n") == 1
