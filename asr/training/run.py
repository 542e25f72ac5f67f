"""A training run, from config and corpora to a checkpoint: start, grow, resume, measure, keep the best."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.optim.swa_utils import get_ema_multi_avg_fn

from asr.config import to_dict
from asr.errors import CheckpointError, DeviceError
from asr.files import write_atomically
from asr.training.board import Board
from asr.training.build import (
    build_model,
    load_noise,
    run_tokenizer,
    set_statistics,
    starting_checkpoint,
    tokenised,
)
from asr.training.callbacks import Bar, Measurements, Samples, Saver, Throughput
from asr.training.config import Stage, TrainConfig
from asr.training.curves import quiet_writer
from asr.training.data import Corpus, LasData
from asr.training.interrupts import heeding_interrupts
from asr.training.module import LasModule
from asr.training.precision import has_bfloat16

__all__ = ["Machine", "build_trainer", "train"]

_LAST = "last.ckpt"

# Warnings of Lightning and torch about intended behaviour.
_NOISE = (
    r".*LeafSpec.* is deprecated",
    r".*does not have many workers",
    r".*callbacks used to create the checkpoint need to be provided",
)


class Machine(NamedTuple):
    """Devices of a run. With several, each has a copy of the model (DDP)."""

    device: str = "auto"  # or "cpu" or "cuda"
    devices: int = 1  # per node
    nodes: int = 1

    def check(self) -> None:
        """Raise a DeviceError if a device is missing."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("cuda: no CUDA device is usable here")
        if self.device != "cpu" and self.devices > max(1, torch.cuda.device_count()):
            raise DeviceError(f"{self.devices} devices requested, {torch.cuda.device_count()} GPUs found")


def train(
    config: TrainConfig,
    data: Sequence[Path],
    dev: Path,
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    noise: Path | None = None,
    max_seconds: float | None = None,
    machine: Machine = Machine(),  # noqa: B008 - immutable
    measure_first: bool = False,
) -> Path:
    """Train a model, or resume the run in `output`.

    Args:
        config: the run's settings.
        data: prepared corpora to train on.
        dev: a prepared corpus to choose the best model by.
        output: the run's folder: `last.ckpt` to resume from, `last/` the model measured last, `best/` the one with the
            fewest errors on dev, `models/` candidates for averaging, `measurements.jsonl`, `tensorboard/`, and
            `training.json`, the settings.
        weights: repetitions of each corpus per pass; default: 1.
        noise: a folder of background noise, or None.
        max_seconds: stop, resumable, after this time.
        machine: devices to train on.
        measure_first: measure a new run's initial model as well.

    Returns:
        The folder of the best model.

    Raises:
        CheckpointError: if the run in `output` is damaged, or belongs to another model.
        ConfigError, DataError, AudioError, TokenizerError: if an input cannot be used.
        DeviceError: if a device is missing.
        TrainingError: if too many steps in a row fail, or the run cannot be saved.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    machine.check()
    deadline = time.monotonic() + max_seconds if max_seconds else None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.manual_seed(config.seed)

    # Inputs are opened first, so that an error leaves no half-made folder behind.
    corpus, dev_corpus, noises = Corpus.open(data, weights), Corpus.open(dev), load_noise(noise)
    start = starting_checkpoint(config)
    last, saved = _run_folder(output)

    tokenizer = start.tokenizer if start else run_tokenizer(config, output, corpus)
    frame_seconds = start.model.config.frame_seconds if start else _frame_seconds(config)
    batches = LasData(
        tokenised(corpus, tokenizer, config.data, frame_seconds, data),
        tokenised(dev_corpus, tokenizer, config.data, frame_seconds, [dev]),
        config.data,
        config.seed,
    )

    with warnings.catch_warnings(), quiet_writer(), heeding_interrupts() as interrupted:
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        for number, stage in _stages_left(config, saved["global_step"] if saved else 0):
            model = build_model(config, stage, tokenizer, start)
            if not start and not last.exists():
                set_statistics(model.features, data, corpus)
            grown_from = config.stages()[number - 1].encoder.joins if number else None
            module = LasModule(model, tokenizer, config, noises, grown_from)
            if saved is not None:
                _check_saved(module, saved, output)
                saved = None  # later stages resume what this one saves
            write_atomically(output / "training.json", json.dumps(to_dict(config), indent=2) + "\n")

            is_last = stage.until_step == config.optimiser.max_steps
            measuring = Measurements(output, config, config.patience if is_last else 0, stage.first_step)
            saver = Saver(last, config, stage.until_step, deadline, interrupted)
            trainer = build_trainer(config, output, stage.until_step, machine, [measuring], [saver])

            if measure_first and not last.exists():
                trainer.validate(module, batches, verbose=False)
            # torch's restricted loader: tensors and plain data, never code.
            trainer.fit(module, batches, ckpt_path=last if last.exists() else None, weights_only=True)

            if interrupted.is_set():
                raise KeyboardInterrupt(f"saved after step {trainer.global_step}; the same command resumes the run")
            if trainer.global_step < stage.until_step:  # out of time or patience
                break
        if module.skipped:
            trainer.print(f"{module.skipped} steps skipped: their gradient was not finite", flush=True)
    return output / "best"


def _run_folder(output: Path) -> tuple[Path, dict[str, Any] | None]:
    """Make the run's folder; the path of the file to resume from, and its content, None if it does not exist yet."""
    output.mkdir(parents=True, exist_ok=True)
    last = output / _LAST
    if not last.exists():
        return last, None
    if not _is_whole(last):
        raise CheckpointError(f"{last}: damaged, or not a saved run; delete it to start again")
    return last, TorchCheckpointIO().load_checkpoint(last, weights_only=True)


def _check_saved(module: LasModule, saved: dict[str, Any], output: Path) -> None:
    """Check that the saved run in `output` is of this model, before anything is written there.

    Raises:
        CheckpointError: it is of another model.
    """
    try:
        module.on_load_checkpoint(saved)
    except CheckpointError as error:
        raise CheckpointError(f"{output}: {error}; use another folder") from None


def _is_whole(file: Path) -> bool:
    """Whether all parts of a file that torch saved, which is a zip archive, match their checksums."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError):  # the last two for damaged flags and names
        return False


def _frame_seconds(config: TrainConfig) -> float:
    """Length of an encoder frame of a new model."""
    return config.features.hop_ms * config.encoder.reduction / 1000


def build_trainer(
    config: TrainConfig,
    output: Path,
    until_step: int,
    machine: Machine,
    measuring: Sequence[Callback] = (),
    saving: Sequence[Callback] = (),
) -> pl.Trainer:
    """A Lightning trainer for one stage of a run.

    Args:
        config: the run's settings.
        output: the run's folder.
        until_step: the stage's last step.
        machine: devices to train on.
        measuring: callbacks that see the averaged weights at the end of validation.
        saving: callbacks that run after the average has been updated.
    """
    decay, several = config.optimiser.ema_decay, machine.devices * machine.nodes > 1
    # All weights at once: one by one takes too long beside a small model's step.
    averaging = [WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))] if decay else []
    return pl.Trainer(
        default_root_dir=output,
        accelerator="gpu" if machine.device == "cuda" else machine.device,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if several else "auto",
        use_distributed_sampler=False,  # our sampler shares out the batches
        precision="bf16-mixed" if config.precision == "bf16" and has_bfloat16(machine.device) else "32-true",
        max_steps=until_step,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=Board(output),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            *measuring,
            Samples(),
            *averaging,
            Throughput(),
            *saving,
            *([Bar(config.optimiser.max_steps)] if sys.stderr.isatty() else []),
        ],
    )


def _stages_left(config: TrainConfig, done: int) -> Iterator[tuple[int, Stage]]:
    """The stages still to run after `done` steps, with their numbers; always at least the last."""
    stages = config.stages()
    for number, stage in enumerate(stages):
        if done < stage.until_step or number == len(stages) - 1:
            yield number, stage
