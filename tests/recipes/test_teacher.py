"""The teacher of unlabelled speech: words go to the right clips, and unreliable labels are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import asr
from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.search.alignment import align
from asr.text.tokenizer import Tokenizer
from recipes.default_model import teacher
from recipes.default_model.teacher import Label, Limits

TRUSTED = Label("a", "a good sentence", gap=0.5, log_prob=-0.2, compression=1.2, language="en")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return asr.load("default").tokenizer


def spelled(tokenizer: Tokenizer, text: str, sure: float = 12.0) -> Tensor:
    """CTC log-probabilities `(T, V)` of `text`, at three frames per token."""
    tokens = tokenizer.encode(text)
    logits = torch.zeros(3 * len(tokens) + 1, len(tokenizer))
    logits[:, 0] = sure / 2
    for i, token in enumerate(tokens):
        logits[3 * i + 1, token] = sure
    return logits.log_softmax(-1)


def test_each_clip_gets_its_own_words(tokenizer: Tokenizer) -> None:
    clips = [spelled(tokenizer, "one morning"), spelled(tokenizer, "in the rain"), spelled(tokenizer, "he left")]

    given = teacher.give_words(tokenizer, clips, "one morning in the rain he left")

    assert [text for text, _ in given] == ["one morning", "in the rain", "he left"]
    assert all(gap < 0.01 for _, gap in given)


def test_a_clip_of_which_nothing_was_written_gets_no_words(tokenizer: Tokenizer) -> None:
    clips = [spelled(tokenizer, "one morning"), torch.zeros(30, len(tokenizer)).log_softmax(-1)]
    clips[1] = clips[1].index_fill(1, torch.tensor([0]), 0.0)  # blanks only

    assert [text for text, _ in teacher.give_words(tokenizer, clips, "one morning")] == ["one morning", ""]


def test_more_words_than_the_audio_can_hold_are_no_label(tokenizer: Tokenizer) -> None:
    given = teacher.give_words(tokenizer, [spelled(tokenizer, "no")], "thank you for watching " * 30)

    assert given == [("", 0.0)]


def test_the_gap_grows_with_what_was_not_said(tokenizer: Tokenizer) -> None:
    heard = spelled(tokenizer, "the boats came home before the storm")
    gaps = []
    for text in ("the boats came home before the storm", "the goats came home before the storm", "a different thing"):
        tokens = tokenizer.encode(text)
        spans = align(heard, tokens)
        assert spans is not None
        gaps.append(teacher.gap_of(heard, tokens, spans))

    assert gaps == sorted(gaps)
    assert gaps[0] < 0.01 < Limits.gap < gaps[2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"text": ""}, "nothing heard"),
        ({"language": "nl"}, "not English"),
        ({"text": "goodbye"}, "a short text"),
        ({"gap": 2.5}, "a large gap"),
        ({"log_prob": -1.1}, "an unsure teacher"),
        ({"compression": 3.0}, "a text that repeats itself"),
        ({"text": "much too much text " * 5}, "too much or too little text"),
        ({"text": "held out words"}, "a sentence held out"),
    ],
)
def test_what_cannot_be_trusted_is_refused(change: dict[str, Any], reason: str | None) -> None:
    label = replace(TRUSTED, **change)

    assert teacher.refusal(label, 2.0, Limits(), frozenset({"held out words"})) == reason


def clip(path: Path, seconds: float) -> Utterance:
    noise = 0.1 * np.random.default_rng(1).standard_normal(int(16_000 * seconds)).astype(np.float32)
    soundfile.write(path, noise, 16_000)
    return Utterance(path.stem, path, seconds, None, "corpus", None)


def test_clips_fill_windows_in_order_and_what_does_not_fit_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [clip(tmp_path / f"{i}.wav", seconds) for i, seconds in enumerate((1.0, 1.0, 4.0, 1.5))]
    missing = replace(clips[0], id="none", audio=tmp_path / "none.wav")

    found = [[u.id for u in window.utterances] for window in teacher.windows([*clips, missing], seconds=3.0)]

    assert found == [["0", "1"], ["3"]]
    told = capsys.readouterr().err
    assert "2.wav: 4 s are too long for a window" in told
    assert "none.wav" in told


def test_a_quiet_clip_is_as_loud_as_its_neighbour() -> None:
    wave = torch.sin(torch.arange(16_000) * 0.2)

    window = teacher.joined([wave, 0.05 * wave])

    silence = int(teacher.SILENCE_SECONDS * 16_000)
    assert len(window) == 32_000 + silence
    torch.testing.assert_close(window[:16_000], window[16_000 + silence :])


def test_labels_of_a_stopped_run_are_completed_and_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run keeps labels from before a kill; accepted labels become a manifest with texts."""
    manifest.write(tmp_path / "untold.jsonl", [clip(tmp_path / f"{name}.wav", 2.0) for name in "abc"])
    (tmp_path / "heard.jsonl").write_text(json.dumps(vars(TRUSTED)) + "\n", encoding="utf-8")
    whisper = SimpleNamespace(
        transcribe=lambda *_, **__: (
            [SimpleNamespace(text=" Some words for all.", avg_logprob=-0.2)],
            SimpleNamespace(language="en"),
        )
    )
    monkeypatch.setattr(teacher, "_teacher", lambda *_: teacher.Teacher(whisper, [], 1))

    source, labels, told = (str(tmp_path / name) for name in ("untold.jsonl", "heard.jsonl", "told.jsonl"))
    assert teacher.main(["label", source, "--teacher", "any", "--output", labels]) == 0
    assert teacher.main(["accept", source, labels, "--output", told]) == 0

    lines = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert " ".join(line["text"] for line in lines[1:]).split() == ["some", "words", "for", "all"]
    assert [(u.id, u.text) for u in manifest.read(tmp_path / "told.jsonl")] == [("a", TRUSTED.text)]
    assert "1 accepted" in capsys.readouterr().out


def test_a_file_that_holds_no_labels_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write(tmp_path / "untold.jsonl", [clip(tmp_path / "a.wav", 1.0)])
    (tmp_path / "heard.jsonl").write_text('{"other": 1}\n', encoding="utf-8")

    arguments = ["accept", str(tmp_path / "untold.jsonl"), str(tmp_path / "heard.jsonl"), "--output", "told.jsonl"]
    assert teacher.main(arguments) == 1
    assert "heard.jsonl: expected the lines that `label` writes" in capsys.readouterr().err
