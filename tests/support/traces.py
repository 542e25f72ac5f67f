"""Traces of searches that have found given texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search import Prefix, Trace
from asr.search.scorers import View, full_scorers
from asr.search.trace import NextScores, Passed
from asr.text.tokenizer import SOS

__all__ = ["trace_of"]


@torch.inference_mode()
def trace_of(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None,
    texts: Sequence[Sequence[int]],
    prefix: Prefix | None = None,
) -> Trace:
    """The trace of a search whose only hypothesis for each utterance is its text in `texts`."""
    frames, device = encoded.encoder_out.shape[1], encoded.encoder_out.device
    scorers = full_scorers(config, model.config.vocab_size, frames, device, lm, None)
    owners, memory = torch.arange(len(texts)), model.decoder.prepare(*encoded)
    last, decoder = torch.full_like(owners, SOS), model.decoder.initial_state(memory)
    if prefix:
        last, decoder, *_ = prefix.widened(frames)
    full, added = [scorer.initial_state(owners) for _, scorer in scorers], torch.zeros(len(texts))

    trace, rows = Trace(), owners
    for u in range(max(map(len, texts)) + 1):
        trace.add(Passed(rows, owners, last, added, decoder, full))
        readout, decoder = model.decoder.step(last, decoder, memory.of(owners))
        log_probs = model.decoder.logits(readout).log_softmax(-1)
        view = View(last, log_probs, decoder.alignment.mean(dim=1))
        scored = [scorer.score(view, state) for (_, scorer), state in zip(scorers, full, strict=True)]
        every = torch.zeros_like(log_probs)
        for (weight, _), (scores, _) in zip(scorers, scored, strict=True):
            every = every + weight * scores
        trace.add_scores(NextScores(every, log_probs))
        rows = torch.tensor([row for row, owner in enumerate(owners.tolist()) if len(texts[owner]) > u]).long()
        owners, decoder = owners[rows], decoder.select(rows)
        last = torch.tensor([texts[owner][u] for owner in owners.tolist()]).long()
        added = every[rows, last]
        full = [scorer.select(state, rows) for (_, scorer), (_, state) in zip(scorers, scored, strict=True)]
    return trace
