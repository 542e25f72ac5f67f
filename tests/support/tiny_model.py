"""Untrained models that take milliseconds, and sounds for them."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, FeatureConfig, LmConfig, ModelConfig
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.text.tokenizer import EOS

__all__ = ["opinionated_lm", "sounds", "tiny_lm", "tiny_model"]


def tiny_model(vocab_size: int = 20, scorer: str = "location", sharpness: float = 6.0) -> Model:
    """An untrained model that is nevertheless confident, and gives different words for different audio."""
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=vocab_size,
        features=FeatureConfig(n_mels=16),
        encoder=EncoderConfig(joins=(2, 2), hidden_size=16, dropout=0.1),
        attention=AttentionConfig(scorer=scorer, size=16, location_channels=3, location_width=7),  # type: ignore[arg-type]
        decoder=DecoderConfig(hidden_size=24, embedding_size=8, dropout=0.1),
    )
    model = Model(config).eval()
    with torch.no_grad():
        for weight in (model.ctc.weight, model.decoder.to_logits.weight, model.decoder.to_readout.weight):
            weight.mul_(sharpness)
        model.decoder.to_logits.bias[EOS] += 1.0
        model.ctc.bias[0] += 1.0
    return model


def tiny_lm(vocab_size: int = 20) -> LanguageModel:
    torch.manual_seed(4)
    lm = LanguageModel(LmConfig(vocab_size, embedding_size=8, hidden_size=8, layers=1)).eval()
    with torch.no_grad():
        lm.embedding.weight.mul_(3)
    return lm


def opinionated_lm(vocab_size: int) -> LanguageModel:
    """An untrained language model with peaked probabilities."""
    torch.manual_seed(5)
    lm = LanguageModel(LmConfig(vocab_size, embedding_size=16, hidden_size=24)).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(4.0)
    return lm


def sounds(count: int) -> tuple[Tensor, Tensor]:
    """`count` waveforms of 0.1 to 1 s with changing pitch and level, padded, and their lengths."""
    samples = torch.randint(1_600, 16_000, (count,))
    samples[0] = 16_000
    time = torch.arange(16_000) / 16_000
    sweep = torch.sin(2 * torch.pi * (200 + 1500 * torch.rand(count, 1)) * time * (1 + time * torch.rand(count, 1)))
    waveform = sweep * torch.rand(count, 1) + 0.05 * torch.randn(count, 16_000)
    return waveform * (torch.arange(16_000) < samples[:, None]), samples
