"""Encoders that grow during training: weights are carried over, and a killed run grows the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr import checkpoint
from asr.config import ModelConfig
from asr.model.las import Model
from asr.text.tokenizer import Tokenizer
from asr.training.config import Growth, TrainConfig
from asr.training.growth import grow
from asr.training.module import LasModule
from asr.training.run import Machine, train
from tests.support.tiny_run import RUN, KilledError, Unbroken, Witness, steps

CPU = Machine("cpu")
GROWING = dataclasses.replace(RUN, growth=(Growth(3, (4,)), Growth(7, (4, 2))))


def module(joins: Sequence[int]) -> LasModule:
    encoder = dataclasses.replace(RUN.encoder, joins=tuple(joins), dropout=0.0, normalisation="none")
    model = Model(ModelConfig(12, RUN.features, encoder, RUN.attention, RUN.decoder))
    return LasModule(model, Tokenizer.train(["a"], 8, "char"), RUN)


def saved_run(trained: LasModule) -> dict[str, Any]:
    """The state that lightning saves of a module after a step."""
    optimiser = trained.configure_optimizers()["optimizer"]
    for parameter in trained.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    return {"state_dict": trained.state_dict(), "optimizer_states": [optimiser.state_dict()]}


def groups(grown: LasModule) -> list[list[str]]:
    return [[name for name, _ in group["params"]] for group in grown._groups()]


@pytest.mark.parametrize("new", [(2, 2), (3, 2, 1), (6,)])
def test_a_layer_that_joins_fewer_or_more_frames_hears_the_same_in_a_steady_sound(new: tuple[int, ...]) -> None:
    before, after = module((4,)), module(new)
    saved = saved_run(before)
    grow(saved, (4,), new, after.state_dict(), groups(after))
    after.load_state_dict(saved["state_dict"])
    steady = torch.randn(1, 1, 12).expand(1, 24, 12)
    layers = [m.model.encoder.layers[0].forward_lstm for m in (before, after)]
    heard = [lstm(steady[:, :join].reshape(1, 1, -1))[0] for lstm, join in zip(layers, (4, new[0]), strict=True)]
    torch.testing.assert_close(heard[0], heard[1], atol=1e-6, rtol=1e-5)


def test_weights_and_what_the_optimiser_knows_of_them_are_carried_over() -> None:
    """Weights and optimiser moments carry over, except for a new layer, and moments of resampled weights."""
    before, after = module((4,)), module((2, 2))
    saved, fresh = saved_run(before), {name: w.clone() for name, w in after.state_dict().items()}
    moments = {
        name: saved["optimizer_states"][0]["state"][i]["exp_avg"]
        for i, name in enumerate(n for group in groups(before) for n in group)
    }
    grow(saved, (4,), (2, 2), after.state_dict(), groups(after))
    after.load_state_dict(saved["state_dict"])
    optimiser = after.configure_optimizers()["optimizer"]
    optimiser.load_state_dict(saved["optimizer_states"][0])
    known = {name: optimiser.state.get(parameter) for name, parameter in after.named_parameters()}
    for name, weight in after.state_dict().items():
        if name.startswith("model.encoder.layers.1"):
            assert torch.equal(weight, fresh[name]), name
            assert not known[name]
        elif not ("layers.0" in name and "weight_ih" in name):
            assert torch.equal(weight, before.state_dict()[name]), name
            assert name not in known or torch.equal(known[name]["exp_avg"], moments[name])
    assert not known["model.encoder.layers.0.forward_lstm.weight_ih_l0"]
    for parameter in after.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()  # old and new moments fit together


@pytest.fixture(scope="module")
def unbroken(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(patch)
        train(GROWING, [packed], packed, tmp_path_factory.mktemp("unbroken"), machine=CPU)
    return Unbroken(witness.entering, witness.final)


def shapes(weights: list[Tensor]) -> list[torch.Size]:
    return [weight.shape for weight in weights]


def test_a_run_grows_at_its_steps_and_ends_as_the_model_that_was_asked_for(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run grows at the given steps to the final model; each stage is measured, and saved models fit their configs."""
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(patch)
        witness.dev_wer = lambda step: 1 / step
        best = train(GROWING, [packed], packed, tmp_path, machine=CPU)
    out, err = capfd.readouterr()
    assert (steps(out), err) == ([3, 4, 7, 8, 10], "")
    assert sorted(witness.entering) == list(range(10))
    changes = [s for s in range(1, 10) if shapes(witness.entering[s]) != shapes(witness.entering[s - 1])]
    assert changes == [3, 7]
    assert checkpoint.load(best).model.config.encoder.joins == (2, 2)
    joins = [checkpoint.load(f).model.config.encoder.joins for f in sorted((tmp_path / "models").iterdir())]
    assert joins == [(4,), (4, 2), (4, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize("kill", [3, pytest.param(5, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
def test_a_killed_run_grows_as_if_nothing_had_been(
    packed: Path, tmp_path: Path, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    """A run killed just after growth, before a save, or later has the same weights at every step."""
    witness = Witness(monkeypatch)
    witness.kill_at(kill)
    with pytest.raises(KilledError):
        train(GROWING, [packed], packed, tmp_path, machine=CPU)
    witness.kill_at(None)
    train(GROWING, [packed], packed, tmp_path, machine=CPU)
    unbroken.equals(witness)


def test_growth_that_was_not_asked_for_is_refused(packed: Path, tmp_path: Path) -> None:
    """Growth not in the settings is refused: a changed config must not turn a run into one of another encoder."""
    from asr.errors import CheckpointError

    short = dataclasses.replace(RUN.optimiser, max_steps=1, decay_steps=0)
    deeper = dataclasses.replace(RUN.encoder, joins=(2, 2, 1))

    def run(config: TrainConfig) -> None:
        train(dataclasses.replace(config, optimiser=short), [packed], packed, tmp_path, machine=CPU)

    run(RUN)
    with pytest.raises(CheckpointError, match="another model"):
        run(dataclasses.replace(RUN, encoder=deeper))
