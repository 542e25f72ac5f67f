"""An untrained model whose streams have many words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from asr.config import (
    AttentionConfig,
    Context,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    FrontConfig,
    HybridConfig,
    ModelConfig,
    SearchConfig,
)
from asr.model.las import Model
from asr.recogniser import Recogniser
from asr.text.tokenizer import EOS, Tokenizer

SENTENCES = [
    "the cat sat on the mat",
    "a dog ran up the hill",
    "we saw six boats",
    "quiet jazz played for a vexing hour",
]
every_kind = pytest.mark.parametrize(
    "encoder", [{}, {"hybrid": HybridConfig(layers=1, heads=2, past_frames=8)}], ids=["pyramid", "hybrid"]
)
THEIRS = {  # parts of imported models
    "joins": (1, 1),
    "normalisation": "none",
    "front": FrontConfig((3, 4), (1, 4), (2, 2)),
    "projection_size": 20,
    "dense_layers": 1,
    "dense_size": 24,
}
CONTEXTS = [Context(360, 120), Context(480, 0), Context(100, 60), Context.causal()]


def babbler(device: str = "cpu", theirs: bool = False, **encoder: Any) -> Recogniser:
    """An untrained model with weights so large that different audio gives different words, and many of them."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(SENTENCES, 60, "char")
    config = ModelConfig(
        vocab_size=len(tokenizer),
        features=FeatureConfig("decibel", n_fft=400, n_mels=40, f_min=0.0) if theirs else FeatureConfig(),
        encoder=EncoderConfig(**{"joins": (3, 2), "hidden_size": 24, **(THEIRS if theirs else {}), **encoder}),
        attention=AttentionConfig(
            size=16, location_channels=3, location_width=11, start="uniform" if theirs else "zero"
        ),
        decoder=DecoderConfig(hidden_size=32, embedding_size=16, cell="gru" if theirs else "lstm"),
        search=SearchConfig(beam_size=3, candidates=8, max_tokens_per_second=5),
    )
    model = Model(config).eval()
    starts = torch.tensor(tokenizer.word_starts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
        model.features.mean.fill_(-40.0 if theirs else -8.0)
        model.features.std.fill_(20.0 if theirs else 4.0)
        model.decoder.to_logits.bias[starts] += 1.5
        model.decoder.to_logits.bias[EOS] -= 4.0
        model.ctc.bias[starts] += 1.5
        model.ctc.bias[0] += 1.0
    return Recogniser(model.to(device), tokenizer, torch.device(device), "float32", Path(), None)
