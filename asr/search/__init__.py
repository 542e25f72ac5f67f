"""Search: from an encoded batch to hypotheses."""

from __future__ import annotations

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.beam import Prefix, beam_search
from asr.search.greedy import greedy
from asr.search.hypothesis import Hypothesis

__all__ = ["Hypothesis", "Prefix", "beam_search", "greedy", "search"]


def search(
    model: Model, encoded: Encoded, config: SearchConfig, lm: TokenPredictor | None = None
) -> list[list[Hypothesis]]:
    """Greedy search where the beam is 1, beam search otherwise; the n-best of each utterance, best first."""
    if config.beam_size == 1:
        return [[hypothesis] for hypothesis in greedy(model, encoded, config)]
    return beam_search(model, encoded, config, lm)
