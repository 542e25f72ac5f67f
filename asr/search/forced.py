"""Scores of hypotheses that differ in one place from a hypothesis that a search has found.

Each starts from the state where it leaves the known hypothesis, which the search has kept, and is scored until it has
followed the known one again for a few tokens. One that falls too far behind is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model.attention import Memory
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.model.states import join
from asr.search.scorers import View, full_scorers
from asr.search.trace import Passed, Path, Trace
from asr.steps import Steps
from asr.text.tokenizer import EOS

__all__ = ["AFTER", "Detour", "Scored", "score_detours"]

AFTER = 3  # tokens after a detour that are scored with it
_RESERVE = 1.0  # what the rest of a detour can make up for


class Detour(NamedTuple):
    """Other tokens in place of some of a known hypothesis."""

    row: int  # of the batch
    start: int  # of the tokens that are replaced
    end: int
    tokens: Sequence[int]  # at least one
    allowance: float  # one that is behind by more is dropped


class Scored(NamedTuple):
    """A detour's score."""

    gain: float  # beside the known hypothesis
    token_scores: list[float]  # log-probabilities of its tokens by the decoder


class _State(NamedTuple):
    """Before a token; rows are hypotheses."""

    last: Tensor  # (N,)
    decoder: Any
    full: list[Any]


class _Forced:
    """Scores given tokens by the full scorers of a search."""

    def __init__(
        self, model: Model, encoded: Encoded, config: SearchConfig, lm: TokenPredictor | None, memory: Memory | None
    ) -> None:
        self.model, self.temperature = model, config.temperature
        self.device, frames = encoded.encoder_out.device, encoded.encoder_out.shape[1]
        self.memory = memory or model.decoder.prepare(*encoded)
        self.scorers = full_scorers(config, model.config.vocab_size, frames, self.device, lm, None)

    def passed(self, passed: Passed, row: int) -> _State:
        """Where a hypothesis of the search has passed."""
        return self.select(_State(passed.last, passed.decoder, passed.full), torch.tensor([row], device=self.device))

    def select(self, state: _State, rows: Tensor) -> _State:
        full = [scorer.select(some, rows) for (_, scorer), some in zip(self.scorers, state.full, strict=True)]
        return _State(state.last.index_select(0, rows), state.decoder.select(rows), full)

    def step(self, state: _State, owners: Tensor) -> tuple[_State, Tensor, Tensor]:
        """Score every possible next token.

        Returns:
            The next state, except for `last`; weighted scores `(N, V)` of each token; their log-probabilities by the
            decoder.
        """
        readout, decoder = self.model.decoder.step(state.last, state.decoder, self.memory.of(owners))
        log_probs = (self.model.decoder.logits(readout).float() / self.temperature).log_softmax(-1)
        view = View(state.last, log_probs, decoder.alignment.mean(dim=1).float())
        added, full = torch.zeros_like(log_probs), []
        for (weight, scorer), before in zip(self.scorers, state.full, strict=True):
            scores, after = scorer.score(view, before)
            added = added + weight * scores
            full.append(after)
        return _State(state.last, decoder, full), added, log_probs


def score_detours(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None,
    trace: Trace,
    known: Mapping[int, Sequence[int]],
    detours: Sequence[Detour],
) -> Steps[list[Scored | None]]:
    """Score detours from known hypotheses by all scorers of a search except CTC; yields after every token.

    Args:
        model: in evaluation mode.
        encoded: of B utterances.
        config: weights.
        lm: of the search.
        trace: of the search that has found the known hypotheses.
        known: tokens of the known hypothesis of each row that has detours, without eos.
        detours: in ascending order of their rows.

    Returns:
        A score for each; None: it was dropped.
    """
    # A search may have given up a hypothesis that is too long: then it has no state after the last token.
    paths = {row: trace.path(row, tokens) for row, tokens in known.items()}
    which = [i for i, d in enumerate(detours) if min(d.end + AFTER, len(known[d.row])) < len(paths[d.row].rows)]
    found: list[Scored | None] = [None] * len(detours)
    if which:
        forced, some = _Forced(model, encoded, config, lm, trace.memory), [detours[i] for i in which]
        branched = _branch(forced, trace, paths, known, some)
        yield
        for i, scored in zip(which, (yield from _deviate(forced, known, some, branched)), strict=True):
            found[i] = scored
    return found


class _Branched(NamedTuple):
    """Detours after their first tokens."""

    bases: list[list[float]]  # gains of the known hypothesis from the start of each detour to every later token
    state: _State  # rows are detours; `last` is not set yet
    added: list[float]  # by the first token
    by_decoder: list[float]


def _branch(
    forced: _Forced,
    trace: Trace,
    paths: Mapping[int, Path],
    known: Mapping[int, Sequence[int]],
    detours: Sequence[Detour],
) -> _Branched:
    """The states where detours leave the known hypotheses; one step scores all first tokens and the final eos."""
    ending = {d.row for d in detours if d.end + AFTER > len(known[d.row])}
    places = sorted({(d.row, d.start) for d in detours} | {(row, len(known[row])) for row in ending})
    states = [forced.passed(trace.passed[count], paths[row].rows[count]) for row, count in places]
    owners = torch.tensor([row for row, _ in places], device=forced.device)
    state, added, by_decoder = forced.step(join(states), owners)

    index = {place: i for i, place in enumerate(places)}
    totals = {row: list(path.totals) for row, path in paths.items()}
    for row in ending:
        totals[row].append(totals[row][-1] + float(added[index[row, len(known[row])], EOS]))
    bases = [[total - totals[d.row][d.start] for total in totals[d.row][d.start :]] for d in detours]

    leaving = torch.tensor([index[d.row, d.start] for d in detours], device=forced.device)
    tokens = torch.tensor([d.tokens[0] for d in detours], device=forced.device)
    values = (x[leaving, tokens].tolist() for x in (added, by_decoder))
    return _Branched(bases, forced.select(state, leaving), *values)


def _deviate(
    forced: _Forced, known: Mapping[int, Sequence[int]], detours: Sequence[Detour], branched: _Branched
) -> Steps[list[Scored | None]]:
    """Score the remaining tokens of detours; yields after every token."""
    texts = [[*d.tokens, *[*known[d.row], EOS][d.end : d.end + AFTER]] for d in detours]
    gains: list[float] = [0.0] * len(detours)
    token_scores: list[list[float]] = [[] for _ in detours]
    found: list[Scored | None] = [None] * len(detours)
    live, (bases, state, added, by_decoder) = list(range(len(detours))), branched
    for u in range(max(map(len, texts))):
        kept = []
        for place, (i, value, log_prob) in enumerate(zip(live, added, by_decoder, strict=True)):
            detour, after = detours[i], max(0, u + 1 - len(detours[i].tokens))
            gains[i] += value
            token_scores[i].append(log_prob)
            gain = gains[i] - bases[i][detour.end - detour.start + after]
            if u + 1 == len(texts[i]):
                found[i] = Scored(gain, token_scores[i][: len(detour.tokens)])
            elif gain + detour.allowance + _RESERVE > 0:
                kept.append(place)
        if not kept:
            break
        before = torch.tensor([texts[i][u] for i in live], device=forced.device)
        state = forced.select(state._replace(last=before), torch.tensor(kept, device=forced.device))
        live = [live[place] for place in kept]
        owners = torch.tensor([detours[i].row for i in live], device=forced.device)
        tokens = torch.tensor([texts[i][u + 1] for i in live], device=forced.device)
        state, every, log_probs = forced.step(state, owners)
        added, by_decoder = (x.gather(1, tokens[:, None])[:, 0].tolist() for x in (every, log_probs))
        yield
    return found
