"""The attention zoo at a tiny scale: every variant is trained, measured and plotted, and no work is repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from asr import audio, checkpoint
from asr.search import search
from recipes.attention_zoo import run, zoo
from recipes.attention_zoo.zoo import VARIANTS, Settings
from tests.support.small_model import small_model
from tests.support.tiny_run import recordings

pytest.importorskip("matplotlib")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    data = str(recordings(tmp_path))
    model = str(small_model(tmp_path / "model"))
    return ["--train", data, "--dev", data, "--work", str(tmp_path / "w"), "--model", model, "--steps", "1"]


def test_every_variant_is_measured_once(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An experiment stopped in the third variant resumes with it."""
    trained: list[str] = []
    build = zoo.build

    def stop_in_the_third(start: checkpoint.Checkpoint, variant: zoo.Variant, seed: int) -> zoo.Model:
        trained.append(variant.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return build(start, variant, seed)

    monkeypatch.setattr(zoo, "build", stop_in_the_third)
    assert run.main(arguments) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert run.main(arguments) == 0
    names = [variant.name for variant in VARIANTS]
    assert trained == [*names[:3], *names[2:]]
    report = tmp_path / "w" / "report"
    table = (report / "RESULTS.md").read_text(encoding="utf-8")
    for name in names:
        assert f"| {name} |" in table
        assert (report / f"{name}.png").stat().st_size > 1_000
        assert checkpoint.load(tmp_path / "w" / name).model.config.attention.scorer == name.partition("+")[0]
    assert run.main(arguments) == 0
    assert len(trained) == len(names) + 1
    # The report named the new settings above results of the old ones.
    assert run.main([*arguments[:-1], "2"]) == 1
    assert "holds results of another model, other data or settings" in capsys.readouterr().err


def test_variants_differ_in_attention_alone_and_only_what_is_new_is_trained(arguments: list[str]) -> None:
    work = Path(arguments[5])
    work.mkdir()
    start = checkpoint.load(arguments[7])
    spoken = zoo.encode(start, Path(arguments[1]), work / "train.safetensors", None, torch.device("cpu"))
    assert len(spoken) == 8
    assert [v.name for v in VARIANTS if not v.hybrid] == ["additive", "dot", "scaled_dot", "multi_head", "location"]
    assert {v.name for v in VARIANTS if v.hybrid} == {f"{v.name}+hybrid" for v in VARIANTS if not v.hybrid}
    model = zoo.build(start, VARIANTS[-1], 1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    zoo.train(model, spoken, start, Settings(steps=3, batch_seconds=4.0))
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert not any(name.startswith(("encoder.layers", "features")) for name in changed)
    for part in ("encoder.hybrid", "decoder.attention", "decoder.cells", "ctc"):
        assert any(name.startswith(part) for name in changed), part


def test_stored_frames_are_what_the_encoder_gives(arguments: list[str], tmp_path: Path) -> None:
    """Results with stored pyramid outputs equal those of the whole model."""
    start = checkpoint.load(arguments[7])
    spoken = zoo.encode(start, Path(arguments[1]), tmp_path / "c.safetensors", 0.8, torch.device("cpu"))
    assert all(one.seconds <= 0.8 for one in spoken)
    again = zoo.encode(start, Path(arguments[1]), tmp_path / "c.safetensors", 0.8, torch.device("cpu"))
    assert [one.id for one in again] == [one.id for one in spoken]
    settings = dataclasses.replace(start.model.config.search, beam_size=2, ctc_weight=0.3)
    found = {one.id: one.hypothesis for one in zoo.measure(start.model, spoken, start, 0.3, 2).scored}
    for name, hypothesis in found.items():
        waveform = audio.load(tmp_path / f"{name}.wav")[None]
        ((best, *_),) = search(start.model, start.model.encode(waveform, torch.tensor([waveform.shape[1]])), settings)
        assert start.tokenizer.decode(best.tokens) == hypothesis
    assert len(set(found.values())) > 1


def test_a_broken_manifest_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments[1] = "/nowhere.jsonl"
    assert run.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
