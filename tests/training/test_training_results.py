"""Results of a run: measurements, models to average, curves and plots; giving up; fine-tuning."""

from __future__ import annotations

import dataclasses
import re
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr import checkpoint
from asr.config import LmConfig
from asr.errors import CheckpointError, TrainingError
from asr.model.lm import LanguageModel
from asr.training import average, finetune
from asr.training.callbacks import Bar, Saver
from asr.training.config import TrainConfig
from asr.training.module import LasModule
from asr.training.run import Machine, train
from tests.support.tiny_run import RUN, KilledError, Witness, steps


@pytest.fixture
def run(packed: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(config: TrainConfig = RUN, **options: Any) -> Path:
        return train(config, [packed], packed, tmp_path / "run", machine=Machine("cpu"), **options)

    return run


def changed(**settings: Any) -> TrainConfig:
    return dataclasses.replace(RUN, **settings)


SHORT = changed(optimiser=dataclasses.replace(RUN.optimiser, max_steps=1, decay_steps=0))
WERS = {2: 0.5, 4: 0.2, 6: 0.4, 8: 0.3, 10: 0.6}


def test_the_last_and_the_best_models_are_kept_and_averaged(
    run: Callable[..., Path], witness: Witness, tmp_path: Path
) -> None:
    """Of five measured models, the last and the best two are kept; their average has the mean weights.

    Other files in a folder of that name are not the run's: they were once deleted.
    """
    witness.dev_wer = WERS.__getitem__
    others = tmp_path / "run" / "models" / "another-project"
    others.mkdir(parents=True)
    folder = run(changed(validate_every=2, keep_last=1, keep_best=2)).parent
    assert {step: values["wer"] for step, values in average.measurements(folder).items()} == WERS
    others.rmdir()
    kept = {int(path.name.removeprefix("step-")): path for path in (folder / "models").iterdir()}
    assert sorted(kept) == [4, 8, 10]
    assert average.choose(folder, best=2) == [kept[4], kept[8]]
    assert average.choose(folder, last=2) == [kept[8], kept[10]]
    assert average.choose(folder) == [kept[4], kept[8], kept[10]]
    average.average([kept[4], kept[8]], tmp_path / "mean")
    mean, *models = (checkpoint.load(path).model.state_dict() for path in (tmp_path / "mean", kept[4], kept[8]))
    for name, weight in mean.items():
        if weight.is_floating_point():
            expected = (models[0][name] + models[1][name]) / 2
            torch.testing.assert_close(weight, expected, atol=1e-3, rtol=1e-3)
    assert not torch.equal(models[0]["ctc.weight"], models[1]["ctc.weight"])


def test_what_cannot_be_averaged_is_one_line(tmp_path: Path, run: Callable[..., Path], witness: Witness) -> None:
    """No run, too few models or different models cannot be averaged: one line each."""
    with pytest.raises(CheckpointError, match="not a run with measurements"):
        average.choose(tmp_path)
    first = run(SHORT)
    with pytest.raises(CheckpointError, match="1 models found, 3 requested"):
        average.choose(first.parent, best=3)
    other = checkpoint.load(first)
    config = dataclasses.replace(other.model.config, search=dataclasses.replace(RUN.search, beam_size=2))
    other.model.config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, dropout=0.3))
    checkpoint.save(tmp_path / "other", other.model, other.tokenizer)
    average.average([first, tmp_path / "other"], tmp_path / "mean")  # the same weights
    other.model.config = dataclasses.replace(config, attention=dataclasses.replace(config.attention, window_frames=9))
    checkpoint.save(tmp_path / "other", other.model, other.tokenizer)
    with pytest.raises(CheckpointError, match="other: another architecture"):
        average.average([first, tmp_path / "other"], tmp_path / "mean")
    (first.parent / average.MEASUREMENTS).write_text('{"wer": 1}')
    with pytest.raises(CheckpointError, match="damaged"):
        average.choose(first.parent)


def test_a_run_ends_when_patience_does_and_stays_ended(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run ends after two measurements in a row without improvement; a restart does nothing."""
    witness.dev_wer = WERS.__getitem__
    patient = changed(validate_every=2, patience=2)
    run(patient)
    assert steps(capfd.readouterr().out) == [2, 4, 6, 8]
    entered = sorted(witness.entering)
    witness.entering.clear()
    run(patient)
    assert (entered, sorted(witness.entering)) == (list(range(8)), [])


def test_stops_by_the_clock_do_not_wear_out_patience(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stops at the time limit add measurements, so a run in slices lost its patience sooner."""
    witness.dev_wer = float
    patient = changed(validate_every=4, patience=2)
    for _ in range(3):
        run(patient, max_seconds=1e-9)
    run(patient)
    assert steps(capfd.readouterr().out) == [1, 2, 3, 4, 8, 10]


def test_a_run_without_a_finite_step_gives_up(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    """After several non-finite steps in a row, a run gives up with one line: the step, and what to try."""
    witness.loss = lambda step, loss: loss * (1 if step == 2 else torch.nan)
    impatient = changed(optimiser=dataclasses.replace(RUN.optimiser, max_skipped=4))
    with pytest.raises(TrainingError, match=r"step 6: the gradient of 4 steps in a row was not finite.*learning_rate"):
        run(impatient)


def test_steps_left_out_are_told_at_the_end(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    """Skipped steps are reported at the end, including those before a kill."""
    witness.loss = lambda step, loss: loss * (torch.nan if step in (1, 6) else 1)
    witness.kill_at(5)
    with pytest.raises(KilledError):
        run()
    witness.kill_at(None)
    run()
    last_line = capfd.readouterr().out.splitlines()[-1]
    assert last_line == "2 steps skipped: their gradient was not finite"


@pytest.mark.parametrize("first", [True, False])
def test_one_process_draws_a_progress_bar(first: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Only one process draws a progress bar, since all write to the same terminal."""
    bar, trainer = Bar(10), types.SimpleNamespace(is_global_zero=first, global_step=3, progress_bar_metrics={})
    bar.on_train_start(trainer, None)  # type: ignore[arg-type]
    bar.on_train_batch_end(trainer)  # type: ignore[arg-type]
    bar.teardown(trainer, None, "fit")  # type: ignore[arg-type]
    assert ("3 of 10 steps" in capfd.readouterr().err) == first


@pytest.mark.slow
def test_tensorboard_shows_curves_texts_and_pictures(packed: Path, tmp_path: Path) -> None:
    """TensorBoard shows curves, texts and pictures at the right steps, also after resuming."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = changed(optimiser=dataclasses.replace(RUN.optimiser, max_steps=21), validate_every=21, save_every=20)
    train(config, [packed], packed, tmp_path, machine=Machine("cpu"))
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    curves = {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    for name in ("loss", "attention", "ctc", "learning_rate", "gradient_norm", "skipped", "hours_per_hour"):
        assert curves[f"train/{name}"][0] == 19, name
    assert curves["dev/wer"] == [20]  # counted from 0, as the steps are
    assert board.Scalars("train/hours_per_hour")[0].value > 1
    assert {"dev/attention_0", "dev/attention_1"} <= {*board.Tags()["images"]}
    (text,) = board.Tensors("dev/samples/text_summary")
    assert b"| reference | hypothesis |" in text.tensor_proto.string_val[0]


def test_training_and_dev_losses_can_be_compared(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training loss included label smoothing, which hid for 25 passes how much the default model memorised."""
    told: list[float] = []
    log = LasModule.log_dict

    def watched(module: LasModule, values: dict[str, Any], **options: Any) -> None:
        told.extend(float(values[name]) for name in values if name == "train/attention")
        log(module, values, **options)

    monkeypatch.setattr(LasModule, "log_dict", watched)
    for smoothing in (0.0, 0.5):
        config = dataclasses.replace(SHORT, label_smoothing=smoothing)
        train(config, [packed], packed, tmp_path / str(smoothing), machine=Machine("cpu"))
    assert len(told) == 2
    assert told[0] == pytest.approx(told[1])


def test_a_model_is_fine_tuned_and_compared_with_what_it_was(
    run: Callable[..., Path], witness: Witness, packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuning keeps the model's search, contexts and language model, and reports WER before and after."""
    began = run(SHORT)
    own, tokenizer = checkpoint.load(began).model.config, checkpoint.load(began).tokenizer
    checkpoint.save_lm(began, LanguageModel(LmConfig(len(tokenizer), 4, 4)), tokenizer)
    config = finetune.settings(str(began), ["optimiser.max_steps=4", "optimiser.decay_steps=2", "validate_every=2"])
    assert (config.search, config.streaming, config.chunk_ms) == (own.search, own.streaming, (0, 320))
    assert config.optimiser.learning_rate < 1e-3
    witness.dev_wer = {0: 0.5, 2: 0.25, 4: 0.4}.__getitem__
    capfd.readouterr()
    tuned = train(config, [packed], packed, tmp_path / "tuned", machine=Machine("cpu"), measure_first=True)
    assert steps(capfd.readouterr().out) == [0, 2, 4]
    measured = average.measurements(tuned.parent)
    assert finetune.verdict(measured) == "WER on dev: 50.0 % before, 25.0 % after 2 steps"
    # A run of `train`, which does not measure its initial model, gave a KeyError.
    assert finetune.verdict({2: {"wer": 0.25}}) == "WER on dev: 25.0 % after 2 steps"
    weights = [checkpoint.load(folder).model.ctc.weight for folder in (tuned, began)]
    assert not torch.equal(*weights)
    average.average(average.choose(tuned.parent), tmp_path / "mean")
    for folder in (tuned, tmp_path / "mean"):
        assert checkpoint.load_lm(folder, tokenizer).config.hidden_size == 4


def test_a_model_that_gets_no_better_is_kept_as_it_was(
    run: Callable[..., Path], witness: Witness, packed: Path, tmp_path: Path
) -> None:
    began = run(SHORT)
    config = finetune.settings(str(began), ["optimiser.max_steps=2", "optimiser.decay_steps=2", "validate_every=2"])
    witness.dev_wer = {0: 0.5, 2: 0.6}.__getitem__
    tuned = train(config, [packed], packed, tmp_path / "tuned", machine=Machine("cpu"), measure_first=True)
    assert "no measurement was better" in finetune.verdict(average.measurements(tuned.parent))
    before, after = (checkpoint.load(folder).model.state_dict() for folder in (began, tuned))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-3, rtol=1e-3)


def test_a_full_disk_names_the_file_of_the_run(tmp_path: Path) -> None:
    """The error was "[Errno 28] No space left on device", and the half-written file kept the disk full."""

    def full(path: Path, weights_only: bool) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    saver = Saver(tmp_path / "last.ckpt", RUN, 10, None, threading.Event())
    trainer: Any = types.SimpleNamespace(save_checkpoint=full)
    with pytest.raises(TrainingError, match=r"last\.ckpt: cannot be written: No space left on device; the run resumes"):
        saver._save(trainer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["write", "flush", "close"])
def test_a_full_disk_names_the_curves_of_the_run(
    method: str,
    run: Callable[..., Path],
    witness: Witness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The thread of TensorBoard's writer printed a traceback, and the run ended in "you tried to log -1 which is …"."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    witness.dev_wer = WERS.__getitem__
    monkeypatch.setattr(f"tensorboard.summary.writer.record_writer.RecordWriter.{method}", full)
    reason = f"{tmp_path}/run/tensorboard: cannot be written: No space left on device; the run resumes from"
    with pytest.raises(TrainingError, match=re.escape(reason)):
        run()
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_does_not_hide_the_first_error(
    run: Callable[..., Path], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If closing the curves after an error fails too, the first error is reported."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    witness.kill_at(3)
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.close", full)
    with pytest.raises(KilledError):
        run()


def test_a_measurement_without_an_error_rate_is_damage(tmp_path: Path) -> None:
    """`average` ended in a KeyError."""
    (tmp_path / "measurements.jsonl").write_text('{"step": 1, "ctc": 2.0}\n')
    with pytest.raises(CheckpointError, match=r"measurements\.jsonl: damaged: KeyError\('wer'\)"):
        average.choose(tmp_path)
