"""Small encoders and decoders whose weights are large enough to tell one input from another."""

from __future__ import annotations

import typing
from dataclasses import replace

import torch
from torch import Tensor

from asr.config import AttentionConfig, AttentionKind, DecoderConfig
from asr.model.decoder import Decoder

TOLERANCE = 1e-4  # of encoder outputs
VOCAB, VALUE = 7, 6
SCORERS = typing.get_args(AttentionKind)
LENGTHS = [9, 4, 6]


def unsettle(module: torch.nn.Module) -> None:
    """Scale up the weights, and set running statistics other than mean 0 and variance 1."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(2.0 if weight.dim() > 1 else 1.0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.05, 0.4)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.3)


def build_decoder(
    scorer: AttentionKind = "location", layers: int = 1, dropout: float = 0.2, kind: str = "ours"
) -> Decoder:
    """A small decoder whose weights are large enough for its inputs to matter; a kind is "ours" or "theirs"."""
    torch.manual_seed(5)
    heads = 2 if scorer == "multi_head" else 1
    attention = AttentionConfig(scorer, size=8, heads=heads, location_channels=3, location_width=5)
    config = DecoderConfig(layers, 10, 5, dropout)
    if kind == "theirs":  # parts of SpeechBrain's decoders
        attention = replace(attention, context_size=7, start="uniform")
        config = replace(config, cell="gru", readout="linear")
    decoder = Decoder(VOCAB, VALUE, attention, config)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(1.5)
    return decoder.eval()


def encoded() -> tuple[Tensor, Tensor]:
    out, lengths = torch.randn(3, 9, VALUE), torch.tensor(LENGTHS)
    return out * (torch.arange(9) < lengths[:, None])[..., None], lengths
