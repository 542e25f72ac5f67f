"""An untrained model for tests, with different words for different audio."""

from __future__ import annotations

from pathlib import Path

import torch

from asr import checkpoint
from asr.config import DecoderConfig, EncoderConfig, ModelConfig, SearchConfig
from asr.model.las import Model
from asr.text.tokenizer import Tokenizer

SENTENCES = ("the cat sat on the mat", "a dog ran up the hill", "we saw six boats")


def small_model(folder: Path, search: SearchConfig | None = None) -> Path:
    """Save it as a checkpoint; its weights are large enough that different audio gives different words."""
    torch.manual_seed(3)
    tokenizer = Tokenizer.train(SENTENCES, 60, "char")
    config = ModelConfig(
        vocab_size=len(tokenizer),
        encoder=EncoderConfig(joins=(3, 2), hidden_size=32),
        decoder=DecoderConfig(hidden_size=48, embedding_size=16),
        search=search or SearchConfig(),
    )
    model = Model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
        model.features.mean.fill_(-8.0)
        model.features.std.fill_(4.0)
    checkpoint.save(folder, model, tokenizer)
    return folder
