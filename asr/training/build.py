"""The parts of a training run: the initial model, the tokenizer, the corpora as tokens, and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from asr import checkpoint
from asr.archive.folders import SUFFIXES
from asr.audio import load
from asr.config import ModelConfig, require
from asr.errors import DataError
from asr.files import write_atomically
from asr.model.features import LogMel
from asr.model.las import Model
from asr.terminal import say
from asr.text.tokenizer import Tokenizer
from asr.training.config import DataConfig, Stage, TrainConfig
from asr.training.data import Corpus
from asr.training.growth import carried_over
from asr.training.statistics import feature_statistics, measure_features

__all__ = [
    "build_model",
    "load_noise",
    "run_tokenizer",
    "set_statistics",
    "starting_checkpoint",
    "tokenised",
]


def starting_checkpoint(config: TrainConfig) -> checkpoint.Checkpoint | None:
    """The checkpoint of `config.init`, or None; grown to the layers and frame rate of `config.joins`.

    Raises:
        CheckpointError: if it is missing or damaged.
        ConfigError: if `joins` has fewer layers than the checkpoint.
    """
    if config.init is None:
        return None
    start = checkpoint.load(config.init)
    own, joins = start.model.config, config.joins or start.model.config.encoder.joins
    if joins == own.encoder.joins:
        return start
    require(len(joins) >= len(own.encoder.joins), "joins", joins, f"for no fewer layers than {own.encoder.joins}")
    torch.manual_seed(config.seed)  # initialises new layers
    model = Model(dataclasses.replace(own, encoder=dataclasses.replace(own.encoder, joins=joins)))
    model.load_state_dict(carried_over(start.model.state_dict(), own.encoder.joins, joins, model.state_dict()))
    return start._replace(model=model)


def build_model(config: TrainConfig, stage: Stage, tokenizer: Tokenizer, start: checkpoint.Checkpoint | None) -> Model:
    """The model of the checkpoint to start from, in training mode with the run's search settings; or a new one."""
    if start:
        model = start.model.train()
        model.config = dataclasses.replace(model.config, search=config.search, streaming=config.streaming)
        if config.dropout is not None:
            _set_dropout(model, config.dropout)
        return model
    torch.manual_seed(config.seed + stage.first_step)  # a resumed run initialises the same layers
    return Model(
        ModelConfig(
            vocab_size=len(tokenizer),
            features=config.features,
            encoder=stage.encoder,
            attention=config.attention,
            decoder=config.decoder,
            search=config.search,
            streaming=config.streaming,
            speech_db=config.speech_db,
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


def run_tokenizer(config: TrainConfig, output: Path, corpus: Corpus) -> Tokenizer:
    """The tokenizer in the run's folder; otherwise the one of the config, or a new one trained on the corpus."""
    path, settings = output / "tokenizer.model", config.tokenizer
    if path.exists():
        return Tokenizer.load(path)
    if settings.path is not None:
        tokenizer = Tokenizer.load(Path(settings.path))
    else:
        tokenizer = Tokenizer.train((e.text for e in corpus.entries), settings.vocab_size, settings.kind)
    write_atomically(path, tokenizer.model)
    return tokenizer


def tokenised(
    corpus: Corpus, tokenizer: Tokenizer, config: DataConfig, frame_seconds: float, folders: Sequence[Path]
) -> Corpus:
    """The corpus as tokens. Utterances that are left out are counted by reason on standard error.

    Raises:
        DataError: if none is left.
    """
    encoded = corpus.tokenise(tokenizer, config, frame_seconds)
    names = ", ".join(map(str, folders))
    reasons = ", ".join(f"{count} {reason}" for reason, count in encoded.left_out.items())
    if not len(encoded):
        raise DataError(
            f"{names}: no utterance is left; left out: {reasons or 'none'}; see data.min_seconds and data.max_seconds"
        )
    if reasons:
        rank_zero_only(say)(
            f"{names}: {len(corpus) - len(encoded)} of {len(corpus)} utterances are left out: {reasons}"
        )
    return encoded


def set_statistics(features: LogMel, data: Sequence[Path], corpus: Corpus) -> None:
    """Set the mean and deviation of each mel bin: those stored beside the corpora, or measured now."""
    measured = feature_statistics(data, features.config) or measure_features(corpus, features)
    features.mean.copy_(measured.mean)
    features.std.copy_(measured.std)


def load_noise(folder: Path | None) -> Tensor | None:
    """All recordings in a folder and below it, joined: `(samples,)` at 16 kHz; None for no folder.

    Raises:
        AudioError: if a recording cannot be read.
        DataError: if the folder is missing or holds no audio.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    # Collections of noise have subfolders, with a licence file in each.
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: contains no audio file")
    return torch.cat([load(path) for path in paths])
