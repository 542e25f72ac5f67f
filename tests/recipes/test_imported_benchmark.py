"""The benchmark of imported models: what it chooses, and its table; SpeechBrain is not needed for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch

from asr.importing.speechbrain.hyperparams import Hyperparams
from asr.importing.speechbrain.recipe import read_recipe
from recipes.benchmark import imported


def test_its_recipe_is_understood() -> None:
    recipe = read_recipe(Hyperparams(imported.RECIPE))
    assert recipe.lm is None
    assert recipe.model.decoder.cell == "gru"
    assert recipe.model.encoder.reduction == 4


def test_the_shortest_utterances_that_are_long_enough_are_taken(tmp_path: Path) -> None:
    rows = []
    for seconds in (3.0, 1.0, 2.0, 2.5):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, torch.zeros(int(seconds * 16_000)).numpy(), 16_000)
        rows.append({"audio": path.name, "text": f"lasts {seconds}", "duration": seconds})
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [clip.text for clip in imported.load(tmp_path / "all.jsonl", 2)] == ["lasts 2.0", "lasts 2.5"]


def test_the_table_compares_texts_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    clips = [imported.Clip(torch.zeros(16_000), "one two"), imported.Clip(torch.zeros(16_000), "three four")]
    texts = {"SpeechBrain": ["one two", "three"], "Spellstream": ["one two", "three four"]}
    imported.show(clips, texts, {"SpeechBrain": 3.0, "Spellstream": 1.0})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 utterances, 2 s; the same text in 1"
    assert printed[1].startswith("SpeechBrain: WER 25.00 %, 3.00 s")
    assert printed[2].startswith("Spellstream: WER 0.00 %, 1.00 s")
    assert printed[3] == "ratio: 3.00"
