"""Greedy search: the likeliest token at every step, for a whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.model import Encoded, Model
from asr.tokenizer import BLANK, EOS, SOS, UNKNOWN

__all__ = ["Hypothesis", "greedy", "max_tokens"]

# How often the host asks the device whether all rows have ended: each question stops the pipeline.
_CHECK_EVERY = 8


@dataclass(frozen=True)
class Hypothesis:
    """What a search found: tokens without sos and eos, the total score, and each token's log-probability."""

    tokens: list[int]
    score: float
    token_scores: list[float]


def max_tokens(lengths: Tensor, frame_seconds: float, per_second: float) -> Tensor:
    """How many tokens a hypothesis of each row `(B,)` may have at the most; a few more than the rate says."""
    return (lengths * (frame_seconds * per_second)).ceil().long() + 4


@torch.inference_mode()
def greedy(model: Model, encoded: Encoded, max_tokens_per_second: float = 12.0) -> list[Hypothesis]:
    """Spell a batch by attention alone.

    Args:
        model: in evaluation mode.
        encoded: of B utterances; one without any frame gets an empty hypothesis.
        max_tokens_per_second: where a hypothesis is cut that does not end by itself.

    Returns:
        B hypotheses; the score is the sum of the tokens' log-probabilities, eos included.
    """
    encoder_out, lengths = encoded
    if encoder_out.shape[1] == 0:
        return [Hypothesis([], 0.0, []) for _ in range(encoder_out.shape[0])]
    memory = model.decoder.prepare(encoder_out, lengths)
    state = model.decoder.initial_state(memory)
    limits = max_tokens(lengths, model.config.frame_seconds, max_tokens_per_second)
    tokens = torch.full_like(lengths, SOS)
    ended = lengths == 0
    spelled, scores = [], []
    for step in range(int(limits.max())):
        readout, state = model.decoder.step(tokens, state, memory)
        logits = model.decoder.logits(readout).float()
        logits[:, [BLANK, UNKNOWN, SOS]] = -math.inf
        best, tokens = logits.log_softmax(-1).max(-1)
        tokens = tokens.masked_fill(ended, EOS)
        spelled.append(tokens)
        scores.append(best.masked_fill(ended, 0.0))
        ended = ended | (tokens == EOS) | (step + 1 >= limits)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 and bool(ended.all()):
            break
    rows = torch.stack(spelled, dim=1).tolist()
    token_scores = torch.stack(scores, dim=1).tolist()
    return [_hypothesis(row, values) for row, values in zip(rows, token_scores, strict=True)]


def _hypothesis(tokens: list[int], scores: list[float]) -> Hypothesis:
    length = tokens.index(EOS) if EOS in tokens else len(tokens)
    return Hypothesis(tokens[:length], sum(scores), scores[:length])
