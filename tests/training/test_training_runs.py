"""Whole tiny training runs: quiet, measured to the end, and unaffected by kills and stops."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr import checkpoint
from asr.config import Context, SearchConfig
from asr.errors import ConfigError
from asr.training.config import TrainConfig
from asr.training.module import LasModule
from asr.training.run import Machine, train
from tests.support.tiny_run import RUN, KilledError, Unbroken, Witness, steps

CPU = Machine("cpu")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noise collection as distributed: a licence, and folders with recordings."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    (folder / "hiss").mkdir()
    soundfile.write(folder / "hiss" / "white.wav", np.random.default_rng(1).normal(0, 0.1, 4_000), 16_000)
    return folder


@pytest.fixture
def run(packed: Path, noise: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train on the tiny corpus into a folder of the given name."""

    def run(name: str = "run", config: TrainConfig = RUN, **options: Any) -> Path:
        return train(config, [packed], packed, tmp_path / name, noise=noise, machine=CPU, **options)

    return run


@pytest.fixture(scope="module")
def unbroken(packed: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(patch)
        train(RUN, [packed], packed, tmp_path_factory.mktemp("unbroken"), noise=noise, machine=CPU)
    return Unbroken(witness.entering, witness.final)


def test_a_run_says_what_it_measures_and_nothing_else(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A run prints a line for each measurement, including the last step's, and no library's warnings or tables."""
    best = run()
    out, err = capfd.readouterr()
    assert steps(out) == [4, 8, 10]
    assert "wer" in out
    assert err == ""
    assert caplog.messages == []
    assert sorted(witness.entering) == list(range(10))
    loaded = checkpoint.load(best)
    assert loaded.model.config.search == RUN.search
    assert loaded.model.config.streaming == RUN.streaming
    assert float(loaded.model.features.std.mean()) != 1.0


def test_a_run_with_a_worker_is_as_quiet_and_the_same(
    run: Callable[..., Path],
    witness: Witness,
    unbroken: Unbroken,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(config=dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, workers=1)))
    out, err = capfd.readouterr()
    assert (steps(out), err, caplog.messages) == ([4, 8, 10], "", [])
    unbroken.equals(witness)


@pytest.mark.parametrize(
    "kills", [*(pytest.param((k,), marks=pytest.mark.slow) for k in (1, 3)), (4,), (6, 9)], ids=str
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    run: Callable[..., Path],
    witness: Witness,
    unbroken: Unbroken,
    capfd: pytest.CaptureFixture[str],
    kills: tuple[int, ...],
) -> None:
    """Promise 8: whenever a run is killed, it resumes with the weights of an uninterrupted run at every step."""
    measured = []
    for kill in kills:
        witness.kill_at(kill)
        with pytest.raises(KilledError):
            run("killed")
        measured += steps(capfd.readouterr().out)
    witness.kill_at(None)
    run("killed")
    out, err = capfd.readouterr()
    assert sorted(set(measured + steps(out))) == [4, 8, 10]
    assert err == ""
    unbroken.equals(witness)


def test_a_run_killed_while_it_measures_measures_again(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run killed during a measurement repeats it, even if it saved at the same step."""

    def killed(step: int) -> float:
        raise KilledError

    witness.dev_wer = killed
    with pytest.raises(KilledError):
        run()
    witness.dev_wer = None
    capfd.readouterr()
    run()
    assert steps(capfd.readouterr().out) == [4, 8, 10]
    unbroken.equals(witness)


def test_a_run_that_is_out_of_time_stops_and_goes_on_from_its_own_weights(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the time limit, a run measures, and saves trained weights, not their average; each start has its own limit."""
    for _ in range(2):
        run(max_seconds=1e-9)
    assert steps(capfd.readouterr().out) == [1, 2]
    run(max_seconds=3_600)
    unbroken.equals(witness)


def test_a_finished_run_is_not_run_again(run: Callable[..., Path], witness: Witness) -> None:
    best = run()
    before = (best / "model.safetensors").stat().st_mtime_ns
    witness.entering.clear()
    assert run() == best
    assert not witness.entering
    assert (best / "model.safetensors").stat().st_mtime_ns == before


def test_the_best_so_far_survives_the_kill(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """After resuming, only a model better than the best before the kill replaces it."""
    witness.dev_wer = {4: 0.5, 8: 0.6, 10: 0.55}.__getitem__
    witness.kill_at(6)
    with pytest.raises(KilledError):
        run()
    weights = tmp_path / "run" / "best" / "model.safetensors"
    best = weights.read_bytes()
    witness.kill_at(None)
    run()
    assert weights.read_bytes() == best
    witness.dev_wer = {12: 0.4}.__getitem__
    run(config=dataclasses.replace(RUN, optimiser=dataclasses.replace(RUN.optimiser, max_steps=12)))
    assert weights.read_bytes() != best


def test_a_resumed_run_goes_on_at_the_rates_that_are_asked_for(run: Callable[..., Path], witness: Witness) -> None:
    """On resuming, saved optimiser and schedule states silently restored the old learning rate and decay."""
    no_statistics = dataclasses.replace(RUN, encoder=dataclasses.replace(RUN.encoder, normalisation="layer"))
    witness.kill_at(6)
    with pytest.raises(KilledError):
        run(config=no_statistics)
    witness.kill_at(None)
    slow = dataclasses.replace(RUN.optimiser, learning_rate=1e-9, weight_decay=0.5)
    run(config=dataclasses.replace(no_statistics, optimiser=slow))
    moved = {
        step: sum(
            not torch.allclose(a, b, atol=1e-7)
            for a, b in zip(witness.entering[step], witness.entering[step + 1], strict=True)
        )
        for step in (4, 8)
    }
    assert moved[4] > 20
    assert moved[8] <= 1  # the mean context


def test_the_best_model_is_the_average_that_was_measured(
    run: Callable[..., Path], witness: Witness, tmp_path: Path
) -> None:
    """The best checkpoint has the averaged weights that were measured; at the last step, the run ends with them."""
    witness.dev_wer = {4: 0.5, 8: 0.4, 10: 0.3}.__getitem__
    saved = checkpoint.load(run()).model.state_dict()
    for (name, weights), final in zip(saved.items(), witness.final, strict=True):
        torch.testing.assert_close(weights, final, atol=1e-2, rtol=2e-3, check_dtype=False, msg=name)
    trained = witness.entering[9]
    assert max(float((a - b).abs().max()) for a, b in zip(trained, witness.final, strict=True)) > 1e-2


def test_a_step_that_is_not_finite_is_left_out(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """A non-finite batch changes no weight, despite momentum; it is counted, and the next step is a normal one."""
    witness.loss = lambda step, loss: loss * (torch.nan if step in (5, 7) else 1)
    no_statistics = dataclasses.replace(RUN, encoder=dataclasses.replace(RUN.encoder, normalisation="layer"))
    logged: list[tuple[int, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "asr.training.board.Board.log_metrics",
            lambda self, metrics, step: logged.extend(
                [(step, metrics["train/skipped"])] if "train/skipped" in metrics else []
            ),
        )
        patch.setattr("lightning.pytorch.trainer.connectors.logger_connector._LoggerConnector.should_update_logs", True)
        witness.kill_at(7)
        with pytest.raises(KilledError):
            run(config=no_statistics)
        witness.kill_at(None)
        run(config=no_statistics)
    changed = {
        step: sum(
            not torch.equal(a, b) for a, b in zip(witness.entering[step], witness.entering[step + 1], strict=True)
        )
        for step in range(9)
    }
    # The mean context, which is not a weight, may still change.
    assert [step for step, moved in changed.items() if moved <= 1] == [5, 7]
    assert all(torch.isfinite(w).all() for w in witness.final)
    assert logged[-1] == (9, 2.0)


def test_an_interrupted_run_is_saved_and_goes_on(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a run after the current step, saved but not measured; resumed, it equals an uninterrupted run."""
    witness.before_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 6 else None
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("interrupted")
    assert signal.getsignal(signal.SIGINT) is before
    assert sorted(witness.entering) == list(range(7))
    assert steps(capfd.readouterr().out) == [4]
    witness.before_step = lambda step: None
    run("interrupted")
    unbroken.equals(witness)


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """A second Ctrl-C stops at once, without waiting for the step; the last save remains."""

    def twice(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    witness.before_step = twice
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert signal.getsignal(signal.SIGINT) is before
    assert sorted(witness.entering) == list(range(5))
    witness.before_step = lambda step: None
    witness.entering.clear()
    run()
    assert sorted(witness.entering) == list(range(4, 10))


def test_a_run_can_start_from_a_model(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """A run from a model keeps weights, tokenizer and statistics; search and streaming come from the run's config."""
    witness.dev_wer = {4: 0.5, 8: 0.4, 10: 0.3, 1: 0.2}.__getitem__
    first = run()
    other = dataclasses.replace(
        RUN,
        init=str(first),
        search=SearchConfig(beam_size=7),
        streaming=Context(chunk_ms=640),
        optimiser=dataclasses.replace(RUN.optimiser, max_steps=1, decay_steps=0, learning_rate=1e-9),
    )
    second = checkpoint.load(run("second", other))
    began = checkpoint.load(first)
    assert second.model.config == dataclasses.replace(
        began.model.config, search=other.search, streaming=other.streaming
    )
    for name, weights in began.model.named_parameters():
        torch.testing.assert_close(second.model.get_parameter(name), weights, atol=1e-4, rtol=1e-3)


def test_a_run_from_a_model_can_take_another_dropout(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run from a model trains with its own dropout, and saves it in the new config."""
    first, used = run(), set[float]()
    learn = LasModule.training_step

    def watched(module: LasModule, *arguments: Any) -> Any:
        used.update(m.p for m in module.model.modules() if isinstance(m, torch.nn.Dropout))
        return learn(module, *arguments)

    monkeypatch.setattr(LasModule, "training_step", watched)
    short = dataclasses.replace(RUN.optimiser, max_steps=1, decay_steps=0)
    second = checkpoint.load(run("second", dataclasses.replace(RUN, init=str(first), dropout=0.4, optimiser=short)))
    assert used == {0.4}
    assert (second.model.config.encoder.dropout, second.model.config.decoder.dropout) == (0.4, 0.4)
    with pytest.raises(ConfigError, match=r"dropout is 0\.4: it must be left out without init"):
        dataclasses.replace(RUN, dropout=0.4)


def test_a_run_from_a_model_can_take_finer_frames_and_more_layers(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run with finer frames and more layers keeps the model's weights, except in new layers, and can be resumed."""
    first = run()
    finer = dataclasses.replace(RUN, init=str(first), joins=(1, 2, 1))
    witness.kill_at(6)
    with pytest.raises(KilledError):
        run("second", finer)
    began, old = witness.entering[0], checkpoint.load(first).model
    known = {tuple(w.shape): w for w in old.encoder.layers[1].state_dict().values()}
    assert sum(any(w.equal(one) for one in began) for w in known.values()) == len(known)
    witness.kill_at(None)
    second = checkpoint.load(run("second", finer)).model.config
    assert second == dataclasses.replace(
        old.config, encoder=dataclasses.replace(old.config.encoder, joins=(1, 2, 1)), streaming=finer.streaming
    )
    assert second.frame_seconds == old.config.frame_seconds / 2
    with pytest.raises(ConfigError, match=r"joins is \(4,\): it must be for no fewer layers than \(2, 2\)"):
        run("third", dataclasses.replace(RUN, init=str(first), joins=(4,)))
