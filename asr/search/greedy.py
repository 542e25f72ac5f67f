"""Greedy search: the most likely token at every step, for a whole batch at once."""

from __future__ import annotations

import math

import torch

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.search.hypothesis import Hypothesis, Repeats, all_done, token_limits
from asr.text.tokenizer import EOS, SOS

__all__ = ["greedy"]


@torch.inference_mode()
def greedy(model: Model, encoded: Encoded, config: SearchConfig) -> list[Hypothesis]:
    """Decode a batch with the decoder alone.

    Args:
        model: in evaluation mode.
        encoded: of B utterances; one without any frame gets an empty hypothesis.
        config: temperature, and limits of length and repetition; the weights of scorers are not used.

    Returns:
        B hypotheses; the score is the sum of the tokens' log-probabilities, eos included.
    """
    encoder_out, lengths = encoded
    if encoder_out.shape[1] == 0:
        return [Hypothesis([], 0.0, []) for _ in range(encoder_out.shape[0])]
    memory = model.decoder.prepare(encoder_out, lengths)
    state = model.decoder.initial_state(memory)
    limits = token_limits(lengths, model.config.frame_seconds, config.max_tokens_per_second)
    tokens = torch.full_like(lengths, SOS)
    repeats = Repeats.start(len(lengths), tokens.device)
    ended = lengths == 0
    spelled, scores = [], []
    for step in range(int(limits.max())):
        readout, state = model.decoder.step(tokens, state, memory)
        log_probs = (model.decoder.logits(readout).float() / config.temperature).log_softmax(-1)
        log_probs[:, :EOS] = -math.inf  # the blank, unknown and sos
        best, tokens = log_probs.max(-1)
        tokens = tokens.masked_fill(ended, EOS)
        spelled.append(tokens)
        scores.append(best.masked_fill(ended, 0.0))
        repeats, looping = repeats.add(tokens, config.max_repeats)
        ended = ended | (tokens == EOS) | looping | (step + 1 >= limits)
        if all_done(ended, step):
            break
    rows = torch.stack(spelled, dim=1).tolist()
    token_scores = torch.stack(scores, dim=1).tolist()
    return [_hypothesis(row, values) for row, values in zip(rows, token_scores, strict=True)]


def _hypothesis(tokens: list[int], scores: list[float]) -> Hypothesis:
    length = tokens.index(EOS) if EOS in tokens else len(tokens)
    return Hypothesis(tokens[:length], sum(scores), scores[:length])
