"""A training run from config and packed corpora to a checkpoint: start, resume, measure, keep the best."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from asr import checkpoint
from asr.audio import load
from asr.config import ModelConfig
from asr.errors import CheckpointError, DataError, DeviceError
from asr.features import LogMel
from asr.model import Model
from asr.tokenizer import Tokenizer
from asr.training.config import TrainConfig
from asr.training.data import Corpus, LasData
from asr.training.module import LasModule

__all__ = ["Report", "Saver", "train"]

_LAST = "last.ckpt"
_STATISTICS_UTTERANCES = 500

# What lightning and torch say of a run that is as it should be.
_NOISE = (
    r".*LeafSpec.* is deprecated",
    r".*does not have many workers",
    r".*callbacks used to create the checkpoint need to be provided",
)


class Report(Callback):
    """Prints each measurement on dev as a line, and keeps two models: `last`, and `best` with the fewest errors."""

    def __init__(self, output: Path, tokenizer: Tokenizer) -> None:
        self._output, self._tokenizer = output, tokenizer
        self.best = float("inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("dev/")}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        shown = "  ".join(f"{name.removeprefix('dev/')} {value:.4f}" for name, value in sorted(values.items()))
        trainer.print(f"step {trainer.global_step}  rate {rate:.1e}  {shown}", flush=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # This hook and not the one above: here the averaged weights are still in place.
        if not isinstance(pl_module, LasModule):
            return
        wer = pl_module.dev_wer()
        folders = [self._output / "last"]
        if wer < self.best:
            self.best = wer
            folders.append(self._output / "best")
        for folder in folders:
            checkpoint.save(folder, pl_module.model, self._tokenizer, torch.float16)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]


class Saver(Callback):
    """Saves what a run needs to go on, and ends it after its last step, after `seconds`, or when it is interrupted."""

    def __init__(self, path: Path, config: TrainConfig, seconds: float | None) -> None:
        self._path, self._config, self._seconds = path, config, seconds
        self._started, self._saved_step = time.monotonic(), -1
        self.interrupted = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        late = self._seconds is not None and time.monotonic() - self._started >= self._seconds
        # After the last step lightning would stop of itself, but without a last measurement.
        if late or self.interrupted or step >= self._config.optimiser.max_steps:
            trainer.should_stop = True
        if self.interrupted:
            trainer.limit_val_batches = 0  # who interrupts does not want to wait for a measurement
        # Where dev is measured too, that comes first: a run killed meanwhile then measures again.
        if step % self._config.save_every == 0 and step % self._config.validate_every != 0:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The only epoch ends where the run does. Hereafter the averaged weights take the place of the trained ones.
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        part = self._path.with_name(self._path.name + ".part")
        trainer.save_checkpoint(part, weights_only=False)  # the optimiser and the loops too
        part.replace(self._path)
        self._saved_step = trainer.global_step

    @contextlib.contextmanager
    def heeding_interrupts(self) -> Iterator[None]:
        """The first Ctrl-C lets the step under way end, so that what is saved is whole; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
            yield
            return

        def heed(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, heed)
        try:
            yield
        except SystemExit:  # what lightning makes of a KeyboardInterrupt
            if not self.interrupted:
                raise
        finally:
            signal.signal(signal.SIGINT, before)
        if self.interrupted:
            raise KeyboardInterrupt


def train(
    config: TrainConfig,
    data: Path,
    dev: Path,
    output: Path,
    noise: Path | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
) -> Path:
    """Train, or go on with the run in `output`.

    Args:
        config: the run's settings.
        data: a packed corpus to learn from.
        dev: a packed corpus to choose by.
        output: the run's folder: `last.ckpt` to resume from, `last/` the model last measured, `best/` the one with the
            fewest errors on dev, and `tensorboard/`.
        noise: a folder of background noise, or None.
        max_minutes: stop, resumable, after this long.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder of the best model.

    Raises:
        CheckpointError: if the run in `output` is damaged or was of another model.
        ConfigError, DataError, AudioError, TokenizerError: if something given cannot be used.
        DeviceError: if the device is not there.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("cuda: no CUDA device can be used here")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.manual_seed(config.seed)
    output.mkdir(parents=True, exist_ok=True)
    last = output / _LAST
    if last.exists() and not zipfile.is_zipfile(last):
        raise CheckpointError(f"{last}: damaged, or no saved run; without it the run starts anew")
    train_corpus, dev_corpus = Corpus(data), Corpus(dev)
    model, tokenizer = _start(config, output, train_corpus)
    train_corpus.tokenise(tokenizer, config.data)
    dev_corpus.tokenise(tokenizer, config.data)
    for folder, corpus in ((data, train_corpus), (dev, dev_corpus)):
        if not len(corpus):
            raise DataError(f"{folder}: no utterance is left; see data.min_seconds and data.max_seconds")
    if not config.init and not last.exists():
        _set_statistics(model.features, train_corpus)
    module = LasModule(model, tokenizer, config, _noise(noise))
    saver = Saver(last, config, max_minutes * 60 if max_minutes else None)
    with warnings.catch_warnings(), saver.heeding_interrupts():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        trainer = _trainer(config, output, tokenizer, saver, device)
        # Only what torch's restricted loader takes is read back: tensors and plain data, never code.
        trainer.fit(
            module,
            LasData(train_corpus, dev_corpus, config.data, config.seed),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    return output / "best"


def _trainer(config: TrainConfig, output: Path, tokenizer: Tokenizer, saver: Saver, device: str) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=output,
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        precision="bf16-mixed",
        max_steps=config.optimiser.max_steps,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        # In this order: measure while the average is in place, save once it is up to date.
        callbacks=[
            Report(output, tokenizer),
            *([EMAWeightAveraging(decay=config.optimiser.ema_decay)] if config.optimiser.ema_decay else []),
            saver,
            *([RichProgressBar()] if sys.stderr.isatty() else []),
        ],
    )


def _start(config: TrainConfig, output: Path, corpus: Corpus) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a checkpoint to start from, or new ones; the tokenizer stays the same on resuming."""
    if config.init:
        started = checkpoint.load(config.init)
        model = started.model.train()
        model.config = dataclasses.replace(model.config, search=config.search, streaming=config.streaming)
        return model, started.tokenizer
    path = output / "tokenizer.model"
    if path.exists():
        tokenizer = Tokenizer.load(path)
    else:
        settings = config.tokenizer
        tokenizer = Tokenizer.train((e.text for e in corpus.entries), settings.vocab_size, settings.kind)
        path.write_bytes(tokenizer.model)
    model_config = ModelConfig(
        vocab_size=len(tokenizer),
        features=config.features,
        encoder=config.encoder,
        attention=config.attention,
        decoder=config.decoder,
        search=config.search,
        streaming=config.streaming,
    )
    return Model(model_config), tokenizer


@torch.no_grad()
def _set_statistics(features: LogMel, corpus: Corpus) -> None:
    """Mean and standard deviation of each mel bin over a sample of the corpus, spread evenly."""
    every = max(1, len(corpus) // _STATISTICS_UTTERANCES)
    frames = torch.cat([features.unnormalised(corpus[i].waveform[None])[0] for i in range(0, len(corpus), every)])
    features.mean.copy_(frames.mean(0))
    features.std.copy_(frames.std(0).clamp(min=1e-3))


def _noise(folder: Path | None) -> Tensor | None:
    if folder is None:
        return None
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"{folder}: not a folder of noise: {error.strerror}") from None
    if not paths:
        raise DataError(f"{folder}: no file of noise is there")
    return torch.cat([load(path) for path in paths])
