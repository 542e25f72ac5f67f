"""Search: from an encoded batch to hypotheses."""

from __future__ import annotations

from collections.abc import Sequence

from asr.config import SearchConfig, require
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.beam import Prefix, beam_search
from asr.search.greedy import greedy
from asr.search.hotwords import Automaton
from asr.search.hypothesis import Hypothesis
from asr.search.spotting import Spotter, narrow

__all__ = ["Automaton", "Hypothesis", "Prefix", "Spotter", "beam_search", "greedy", "narrow", "search"]


def search(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    hotwords: Sequence[Automaton | None] = (),
) -> list[list[Hypothesis]]:
    """Greedy search where the beam is 1, beam search otherwise; the n-best of each utterance, best first.

    Raises:
        ConfigError: greedy search is given hotwords.
    """
    if config.beam_size == 1:
        require(not any(hotwords), "search.beam_size", 1, "at least 2 with hotwords")
        return [[hypothesis] for hypothesis in greedy(model, encoded, config)]
    return beam_search(model, encoded, config, lm, hotwords=hotwords)
