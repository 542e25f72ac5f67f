"""A training run from config and packed corpora to a checkpoint: start, resume, measure, keep the best."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from asr import checkpoint
from asr.audio import load
from asr.config import ModelConfig
from asr.features import LogMel
from asr.model import Model
from asr.tokenizer import Tokenizer
from asr.training.config import TrainConfig
from asr.training.data import Corpus, LasData
from asr.training.module import LasModule

__all__ = ["Report", "train"]

_LAST = "last.ckpt"
_STATISTICS_UTTERANCES = 500


class Report(Callback):
    """Prints each measurement on dev as a line, and keeps the checkpoint folder with the fewest word errors."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self.best = float("inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(pl_module, LasModule):
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("dev/")}
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
        shown = "  ".join(f"{name.removeprefix('dev/')} {value:.4f}" for name, value in sorted(values.items()))
        print(f"step {trainer.global_step}  rate {rate:.1e}  {shown}", flush=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # This hook and not the one above: here the averaged weights are still in place.
        if trainer.sanity_checking or not isinstance(pl_module, LasModule):
            return
        wer = pl_module.dev_wer()
        if wer < self.best:
            self.best = wer
            checkpoint.save(self._folder, pl_module.model, self._tokenizer, torch.float16)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]


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
        output: the run's folder: `last.ckpt` to resume from, `best/` the model with the fewest errors on dev, TensorBoard.
        noise: a folder of background noise, or None.
        max_minutes: stop, resumable, after this long.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder of the best model.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    torch.manual_seed(config.seed)
    output.mkdir(parents=True, exist_ok=True)
    train_corpus, dev_corpus = Corpus(data), Corpus(dev)
    model, tokenizer = _start(config, output, train_corpus)
    train_corpus.tokenise(tokenizer, config.data)
    dev_corpus.tokenise(tokenizer, config.data)
    if not config.init:
        _set_statistics(model.features, train_corpus)
    module = LasModule(model, tokenizer, config, _noise(noise))
    report = Report(output / "best", tokenizer)
    trainer = pl.Trainer(
        default_root_dir=output,
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        precision="bf16-mixed",
        max_steps=config.optimiser.max_steps,
        max_time=timedelta(minutes=max_minutes) if max_minutes else None,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        callbacks=[
            report,
            ModelCheckpoint(output, "last", every_n_train_steps=config.save_every, enable_version_counter=False),
            *([EMAWeightAveraging(decay=config.optimiser.ema_decay)] if config.optimiser.ema_decay else []),
            *([RichProgressBar()] if sys.stderr.isatty() else []),
        ],
    )
    last = output / _LAST
    # Only what torch's restricted loader takes is read back: tensors and plain data, never code.
    trainer.fit(
        module,
        LasData(train_corpus, dev_corpus, config.data, config.seed),
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )
    trainer.save_checkpoint(last)
    return output / "best"


def _start(config: TrainConfig, output: Path, corpus: Corpus) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a checkpoint to start from, or new ones; the tokenizer stays the same on resuming."""
    if config.init:
        started = checkpoint.load(config.init)
        return started.model.train(), started.tokenizer
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
    return torch.cat([load(path) for path in sorted(folder.iterdir()) if path.is_file()])
