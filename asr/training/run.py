"""A training run from config and corpora to a checkpoint: start, grow, resume, measure, keep the best."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from asr import checkpoint
from asr.archive.sources import SUFFIXES
from asr.audio import load
from asr.config import ModelConfig, require, to_dict
from asr.errors import CheckpointError, DataError, DeviceError
from asr.files import write_atomically
from asr.model.features import LogMel
from asr.model.las import Model
from asr.terminal import say
from asr.text.tokenizer import Tokenizer
from asr.training.callbacks import Bar, Report, Samples, Saver, Throughput
from asr.training.config import DataConfig, Stage, TrainConfig
from asr.training.data import Corpus, LasData
from asr.training.growth import carried_over
from asr.training.interrupts import heeding_interrupts
from asr.training.module import LasModule
from asr.training.statistics import feature_statistics, measure_features

__all__ = ["Machine", "build_trainer", "train"]

_LAST = "last.ckpt"

# What lightning and torch say of a run that is as it should be.
_NOISE = (
    r".*LeafSpec.* is deprecated",
    r".*does not have many workers",
    r".*callbacks used to create the checkpoint need to be provided",
)


class Machine(NamedTuple):
    """Where a run takes place. With more than one process, each device has its own copy of the model (DDP)."""

    device: str = "auto"  # or "cpu" or "cuda"
    devices: int = 1  # of each machine
    nodes: int = 1  # machines

    def check(self) -> None:
        """Raise a DeviceError if it is not there."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("cuda: no CUDA device can be used here")
        if self.device != "cpu" and self.devices > max(1, torch.cuda.device_count()):
            raise DeviceError(f"{self.devices} devices were asked for; {torch.cuda.device_count()} GPUs are here")


def train(
    config: TrainConfig,
    data: Sequence[Path],
    dev: Path,
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    noise: Path | None = None,
    max_seconds: float | None = None,
    machine: Machine = Machine(),  # noqa: B008 - it cannot be changed
    measure_first: bool = False,
) -> Path:
    """Train, or go on with the run in `output`.

    Args:
        config: the run's settings.
        data: prepared corpora to learn from.
        dev: a prepared corpus to choose by.
        output: the run's folder: `last.ckpt` to resume from, `last/` the model last measured, `best/` the one with the
            fewest errors on dev, `models/` those that may be averaged, `measurements.jsonl`, `tensorboard/`, and
            `training.json`, the settings.
        weights: how often each corpus comes in a pass; 1 if not given.
        noise: a folder of background noise, or None.
        max_seconds: stop, resumable, after this long.
        machine: devices to train on.
        measure_first: measure the model that a new run begins with, too.

    Returns:
        The folder of the best model.

    Raises:
        CheckpointError: if the run in `output` is damaged or was of another model.
        ConfigError, DataError, AudioError, TokenizerError: if something given cannot be used.
        DeviceError: if a device is not there.
        TrainingError: if no step succeeds any more.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    machine.check()
    deadline = time.monotonic() + max_seconds if max_seconds else None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.manual_seed(config.seed)
    # What cannot be used is told before the run's folder is made.
    corpus, dev_corpus, noises = Corpus.open(data, weights), Corpus.open(dev), _noise(noise)
    start = _start(config)
    output.mkdir(parents=True, exist_ok=True)
    last = output / _LAST
    if last.exists() and not zipfile.is_zipfile(last):
        raise CheckpointError(f"{last}: damaged, or no saved run; without it the run starts anew")
    write_atomically(output / "training.json", json.dumps(to_dict(config), indent=2) + "\n")
    tokenizer = start.tokenizer if start else _tokenizer(config, output, corpus)
    hop_ms, reduction = config.features.hop_ms, config.encoder.reduction
    frame_seconds = start.model.config.frame_seconds if start else hop_ms * reduction / 1000
    spelled = (
        _spelled(corpus, tokenizer, config.data, frame_seconds, data),
        _spelled(dev_corpus, tokenizer, config.data, frame_seconds, [dev]),
    )
    batches = LasData(*spelled, config.data, config.seed)
    with warnings.catch_warnings(), heeding_interrupts() as interrupted:
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        for number, stage in _stages_left(config, last):
            model = _model(config, stage, tokenizer, start)
            if not start and not last.exists():
                _set_statistics(model.features, data, corpus)
            grown_from = config.stages()[number - 1].encoder.joins if number else None
            module = LasModule(model, tokenizer, config, noises, grown_from)
            is_last = stage.until_step == config.optimiser.max_steps
            report = Report(output, config, config.patience if is_last else 0, stage.first_step)
            saver = Saver(last, config, stage.until_step, deadline, interrupted)
            trainer = build_trainer(config, output, stage.until_step, machine, [report], [saver])
            if measure_first and not last.exists():
                trainer.validate(module, batches, verbose=False)
            # Only what torch's restricted loader takes is read back: tensors and plain data, never code.
            trainer.fit(module, batches, ckpt_path=last if last.exists() else None, weights_only=True)
            if interrupted.is_set():
                raise KeyboardInterrupt(f"saved after step {trainer.global_step}; the same command goes on from there")
            if trainer.global_step < stage.until_step:  # out of time, or of patience
                break
        if module.skipped:
            trainer.print(f"{module.skipped} steps were left out, since their gradient was not finite", flush=True)
    return output / "best"


def build_trainer(
    config: TrainConfig,
    output: Path,
    until_step: int,
    machine: Machine,
    measuring: Sequence[Callback] = (),
    saving: Sequence[Callback] = (),
) -> pl.Trainer:
    """A lightning trainer for a part of a run.

    Args:
        config: the run's settings.
        output: the run's folder.
        until_step: the part's last step.
        machine: devices to train on.
        measuring: callbacks that see the averaged weights at the end of a measurement.
        saving: callbacks that come when the average is up to date.
    """
    decay, several = config.optimiser.ema_decay, machine.devices * machine.nodes > 1
    # The whole set in place of one weight at a time: a step of a small model is short.
    averaging = [WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))] if decay else []
    return pl.Trainer(
        default_root_dir=output,
        accelerator="gpu" if machine.device == "cuda" else machine.device,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if several else "auto",
        use_distributed_sampler=False,  # ours shares out the batches itself
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_steps=until_step,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
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


def _stages_left(config: TrainConfig, last: Path) -> Iterator[tuple[int, Stage]]:
    """The parts of the run that are not over, with their numbers; the last in any case."""
    stages, done = config.stages(), 0
    if len(stages) > 1 and last.exists():
        done = int(TorchCheckpointIO().load_checkpoint(last, weights_only=True)["global_step"])
    for number, stage in enumerate(stages):
        if done < stage.until_step or number == len(stages) - 1:
            yield number, stage


def _start(config: TrainConfig) -> checkpoint.Checkpoint | None:
    """The checkpoint to start from, if any, with the frames and layers that are asked for."""
    if config.init is None:
        return None
    start = checkpoint.load(config.init)
    own, joins = start.model.config, config.joins or start.model.config.encoder.joins
    if joins == own.encoder.joins:
        return start
    require(len(joins) >= len(own.encoder.joins), "joins", joins, f"for no fewer layers than {own.encoder.joins}")
    torch.manual_seed(config.seed)  # for new layers
    model = Model(dataclasses.replace(own, encoder=dataclasses.replace(own.encoder, joins=joins)))
    model.load_state_dict(carried_over(start.model.state_dict(), own.encoder.joins, joins, model.state_dict()))
    return start._replace(model=model)


def _model(config: TrainConfig, stage: Stage, tokenizer: Tokenizer, start: checkpoint.Checkpoint | None) -> Model:
    """That of a checkpoint to start from, or a new one."""
    if start:
        model = start.model.train()
        model.config = dataclasses.replace(model.config, search=config.search, streaming=config.streaming)
        if config.dropout is not None:
            _set_dropout(model, config.dropout)
        return model
    torch.manual_seed(config.seed + stage.first_step)  # a resumed run grows the same layers
    return Model(
        ModelConfig(
            vocab_size=len(tokenizer),
            features=config.features,
            encoder=stage.encoder,
            attention=config.attention,
            decoder=config.decoder,
            search=config.search,
            streaming=config.streaming,
        )
    )


def _set_dropout(model: Model, rate: float) -> None:
    own = model.config
    model.config = dataclasses.replace(
        own,
        encoder=dataclasses.replace(own.encoder, dropout=rate),
        decoder=dataclasses.replace(own.decoder, dropout=rate),
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _tokenizer(config: TrainConfig, output: Path, corpus: Corpus) -> Tokenizer:
    """One made before, or one that is learned now; it stays the same on resuming."""
    path, settings = output / "tokenizer.model", config.tokenizer
    if path.exists():
        return Tokenizer.load(path)
    if settings.path is not None:
        tokenizer = Tokenizer.load(Path(settings.path))
    else:
        tokenizer = Tokenizer.train((e.text for e in corpus.entries), settings.vocab_size, settings.kind)
    write_atomically(path, tokenizer.model)
    return tokenizer


def _spelled(
    corpus: Corpus, tokenizer: Tokenizer, config: DataConfig, frame_seconds: float, folders: Sequence[Path]
) -> Corpus:
    """The corpus as tokens; what had to be left out is said."""
    spelled = corpus.tokenise(tokenizer, config, frame_seconds)
    names = ", ".join(map(str, folders))
    reasons = ", ".join(f"{count} {reason}" for reason, count in spelled.left_out.items())
    if not len(spelled):
        raise DataError(
            f"{names}: no utterance is left; left out: {reasons or 'none'}; see data.min_seconds and data.max_seconds"
        )
    if reasons:
        rank_zero_only(say)(
            f"{names}: {len(corpus) - len(spelled)} of {len(corpus)} utterances are left out: {reasons}"
        )
    return spelled


def _set_statistics(features: LogMel, data: Sequence[Path], corpus: Corpus) -> None:
    """The mean and deviation of each mel bin that were stored beside the corpora, or else are measured now."""
    measured = feature_statistics(data, features.config) or measure_features(corpus, features)
    features.mean.copy_(measured.mean)
    features.std.copy_(measured.std)


def _noise(folder: Path | None) -> Tensor | None:
    if folder is None:
        return None
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of noise")
    # Collections have folders, and a licence in each.
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: no audio file is there")
    return torch.cat([load(path) for path in paths])
