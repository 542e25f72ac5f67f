"""CTC paths and random posteriors for tests of the prefix scorer and of forced alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.text.tokenizer import BLANK

__all__ = ["VOCAB", "collapse", "random_log_probs"]

VOCAB = 4


def collapse(tokens: list[int]) -> list[int]:
    """A frame-by-frame CTC path as tokens: repeats joined, blanks dropped."""
    return [t for i, t in enumerate(tokens) if t != BLANK and (i == 0 or t != tokens[i - 1])]


def random_log_probs(frames: int, seed: int = 0, rows: int = 1, vocab: int = VOCAB) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, frames, vocab, generator=random)).log_softmax(-1)
