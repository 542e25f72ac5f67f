"""Search: from an encoded batch to hypotheses."""

from __future__ import annotations

from collections.abc import Sequence

from asr.config import SearchConfig, require
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.beam import Prefix, beam_search, beam_search_steps
from asr.search.greedy import greedy
from asr.search.hotwords import Earlier, place_hotwords, place_hotwords_steps
from asr.search.hypothesis import Hypothesis
from asr.search.spotting import Spotter
from asr.search.trace import HotwordState, Trace
from asr.steps import Steps, finish

__all__ = [
    "Earlier",
    "HotwordState",
    "Hypothesis",
    "Prefix",
    "Spotter",
    "Trace",
    "beam_search",
    "greedy",
    "place_hotwords",
    "search",
    "search_steps",
]


def search(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    hotwords: Sequence[Spotter | None] = (),
) -> list[list[Hypothesis]]:
    """Greedy search where the beam is 1, beam search otherwise; the n-best of each utterance, best first.

    Raises:
        ConfigError: greedy search is given hotwords.
    """
    return finish(search_steps(model, encoded, config, lm, hotwords))


def search_steps(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    hotwords: Sequence[Spotter | None] = (),
) -> Steps[list[list[Hypothesis]]]:
    """As `search`; a beam search yields after every token, a greedy one, which is short, does not."""
    if config.beam_size == 1:
        require(not any(hotwords), "search.beam_size", 1, "at least 2 with hotwords")
        return [[hypothesis] for hypothesis in greedy(model, encoded, config)]
    trace = Trace() if any(hotwords) else None
    found = yield from beam_search_steps(model, encoded, config, lm, None, trace)
    return (yield from place_hotwords_steps(model, encoded, found, trace, hotwords, config, lm)) if trace else found
