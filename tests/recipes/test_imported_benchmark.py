"""The benchmark of imported models, without SpeechBrain: recipe, choice of utterances, table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch

from asr.importing.speechbrain.hyperparams import Hyperparams
from asr.importing.speechbrain.recipe import read_recipe
from recipes.benchmark import imported, imported_streams
from recipes.benchmark.imported_clips import Clip, load
from recipes.benchmark.imported_training import RECIPE
from streaming.engine import Engine
from tests.support.babbler import babbler
from tests.support.streams import finals, listen


def test_its_recipe_is_understood() -> None:
    recipe = read_recipe(Hyperparams(RECIPE))
    assert recipe.lm is not None
    assert recipe.model.decoder.cell == "gru"
    assert recipe.model.encoder.reduction == 4
    assert recipe.model.search.beam_size == 80


def test_utterances_of_a_corpus_that_are_long_enough_are_taken_shortest_first(tmp_path: Path) -> None:
    rows = []
    for seconds, corpus in ((3.0, "a"), (1.0, "a"), (2.0, "b"), (2.5, "a")):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, torch.zeros(int(seconds * 16_000)).numpy(), 16_000)
        rows.append({"audio": path.name, "text": f"lasts {seconds}", "duration": seconds, "corpus": corpus})
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [clip.text for clip in load(tmp_path / "all.jsonl", "a", 2.0)] == ["lasts 2.5", "lasts 3.0"]
    assert len(load(tmp_path / "all.jsonl")) == 4


def test_the_table_compares_texts_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    clips = [Clip(torch.zeros(16_000), "one two"), Clip(torch.zeros(16_000), "three four")]
    texts = {"SpeechBrain": ["one two", "three"], "Spellstream": ["one two", "three four"]}
    imported.show(clips, texts, {"SpeechBrain": 3.0, "Spellstream": 1.0})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 utterances, 2 s"
    assert printed[-2:] == [
        "| SpeechBrain | 25.00 % | 2 | 3.00 | 1.5000 | 1.00 |",
        "| Spellstream | 0.00 % | 1 | 1.00 | 0.5000 | 3.00 |",
    ]


def test_a_stream_gives_the_final_texts(recordings: list[torch.Tensor]) -> None:
    engine = Engine(babbler(theirs=True))
    waveform = torch.cat([recordings[0][:30_000], torch.zeros(20_000), recordings[1][:20_000]])
    texts = [final.text for final in finals(listen(engine, [waveform]))]
    assert len(texts) == 2
    assert len(imported_streams.paused(waveform)) == len(waveform) + 24_000
    assert imported_streams.heard(engine, waveform) == " ".join(texts)


def test_a_line_of_the_table_of_streams() -> None:
    clips = [Clip(torch.zeros(8_000), "one two"), Clip(torch.zeros(8_000), "three")]
    heard: list[int] = []

    def recognise(waveform: torch.Tensor) -> str:
        heard.append(len(waveform))
        return "one"

    line = imported_streams.row(clips, recognise)
    assert line.startswith("66.7 % | 0.0")
    assert heard == [8_000, 8_000]
