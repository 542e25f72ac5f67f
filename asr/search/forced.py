"""Scores of detours: hypotheses that differ in one place from a known hypothesis, found by a search.

The trace of the search has the scores of every next token where a detour begins, and those of later tokens as long as
the search followed the same tokens; only the rest is computed. A detour is scored until it has rejoined the known
hypothesis for a few tokens, or is clearly ahead; one that falls too far behind is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model.attention import Memory
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.model.states import join
from asr.search.scorers import full_scorers, score_next
from asr.search.trace import Passed, Path, Trace
from asr.steps import Steps
from asr.text.tokenizer import EOS

__all__ = ["AFTER", "Detour", "Scored", "score_detours"]

AFTER = 3  # maximum number of tokens after a detour that are scored with it

_Place = tuple[int, int]  # a hypothesis in the trace: its number of tokens, and its row


class Detour(NamedTuple):
    """Other tokens in place of some of a known hypothesis."""

    row: int  # of the batch
    start: int  # of the tokens that are replaced
    end: int
    tokens: Sequence[int]  # at least one
    least: float  # gain at which it is dropped
    enough: float = math.inf  # gain above which it wins, once it has rejoined the known hypothesis for a token


class Scored(NamedTuple):
    """A detour's score."""

    gain: float  # relative to the known hypothesis
    token_scores: list[float]  # log-probabilities of its tokens by the decoder


class _State(NamedTuple):
    """State before a token; rows are hypotheses."""

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
        """The state of one row of the search."""
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
        memory = self.memory.of(owners)
        found = score_next(
            self.model.decoder, self.scorers, self.temperature, state.last, state.decoder, state.full, memory
        )
        return _State(state.last, found.decoder, found.full), found.added, found.view.log_probs


class _Race:
    """Detours during scoring, each compared with its known hypothesis.

    Args:
        detours: in ascending order of their rows.
        known: tokens of the known hypotheses.
        bases: for each detour, gains of the known hypothesis from the detour's start to every later token.
    """

    def __init__(
        self, detours: Sequence[Detour], known: Mapping[int, Sequence[int]], bases: Sequence[Sequence[float]]
    ) -> None:
        self.detours, self.bases = detours, bases
        self.texts = [[*d.tokens, *[*known[d.row], EOS][d.end : d.end + AFTER]] for d in detours]
        self.found: list[Scored | None] = [None] * len(detours)
        self.live = set(range(len(detours)))
        self._gains = [0.0] * len(detours)
        self._token_scores: list[list[float]] = [[] for _ in detours]

    def tokens(self, which: Sequence[int], ahead: int = 0) -> list[int]:
        """A token of each of some detours: the next one, or the one `ahead` of it; -1 is the latest."""
        return [self.texts[i][len(self._token_scores[i]) + ahead] for i in which]

    def add(self, which: Sequence[int], added: Sequence[float], by_decoder: Sequence[float]) -> None:
        """Add the scores of the next token of some live detours."""
        for i, value, log_prob in zip(which, added, by_decoder, strict=True):
            detour, scores = self.detours[i], self._token_scores[i]
            self._gains[i] += value
            scores.append(log_prob)
            after = max(0, len(scores) - len(detour.tokens))
            gain = self._gains[i] - self.bases[i][detour.end - detour.start + after]
            if len(scores) == len(self.texts[i]) or (after and gain > detour.enough):
                self.found[i] = Scored(gain, scores[: len(detour.tokens)])
                self.live.discard(i)
            elif gain <= detour.least:
                self.live.discard(i)


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
        trace: of the search that found the known hypotheses.
        known: tokens of the known hypothesis of each row that has detours, without eos.
        detours: in ascending order of their rows.

    Returns:
        A score for each; None: it was dropped.
    """
    # A search may have given up a hypothesis that is too long: then it has no scores after the last token.
    paths = {row: trace.path(row, tokens) for row, tokens in known.items()}
    counts = {row: min(len(path.rows), len(trace.scores)) for row, path in paths.items()}
    which = [i for i, d in enumerate(detours) if min(d.end + AFTER, len(known[d.row])) < counts[d.row]]
    some = [detours[i] for i in which]
    race = _Race(some, known, _bases(trace, paths, known, some))
    found: list[Scored | None] = [None] * len(detours)
    left = _searched(trace, race, [paths[d.row].rows[d.start] for d in some])
    if race.live:
        forced = _Forced(model, encoded, config, lm, trace.memory)
        yield from _deviate(forced, race, *_branched(forced, trace, left))
    for i, scored in zip(which, race.found, strict=True):
        found[i] = scored
    return found


def _bases(
    trace: Trace, paths: Mapping[int, Path], known: Mapping[int, Sequence[int]], detours: Sequence[Detour]
) -> list[list[float]]:
    """Gains of the known hypothesis from the start of each detour to every later token, eos included if needed."""
    totals = {row: list(path.totals) for row, path in paths.items()}
    for row in {d.row for d in detours if d.end + AFTER > len(known[d.row])}:
        count = len(known[row])
        totals[row].append(totals[row][-1] + float(trace.scores[count].added[paths[row].rows[count], EOS]))
    return [[total - totals[d.row][d.start] for total in totals[d.row][d.start :]] for d in detours]


def _searched(trace: Trace, race: _Race, rows: Sequence[int]) -> dict[int, _Place]:
    """Score detours from the trace, from the `rows` where they begin, as far as the search followed the same tokens.

    Returns:
        For each live detour, a place whose state is the detour's, except for `last`.
    """
    at = {i: (detour.start, row) for i, (detour, row) in enumerate(zip(race.detours, rows, strict=True))}
    left: dict[int, _Place] = {}
    while at:
        tokens = race.tokens(list(at))
        race.add(list(at), *_kept(trace, list(at.values()), tokens))
        further: dict[int, _Place] = {}
        for (i, (count, row)), token in zip(at.items(), tokens, strict=True):
            if i not in race.live:
                continue
            # The trace keeps the state after a row's last token with each row that continues it.
            following = trace.following(count, row)
            if token in following and trace.following(count + 1, following[token]):
                further[i] = count + 1, following[token]
            else:
                left[i] = count + 1, next(iter(following.values()))
        at = further
    return left


def _kept(trace: Trace, places: Sequence[_Place], tokens: Sequence[int]) -> tuple[list[float], list[float]]:
    """Scores of a token after each place, and their log-probabilities by the decoder."""
    index = {place: i for i, place in enumerate(dict.fromkeys(places))}
    which = torch.tensor([[index[place] for place in places], tokens])
    rows = [(trace.scores[count], row) for count, row in index]
    added, by_decoder = (torch.stack(of) for of in zip(*([x[i] for x in scores] for scores, i in rows), strict=True))
    return added[tuple(which)].tolist(), by_decoder[tuple(which)].tolist()


def _branched(forced: _Forced, trace: Trace, left: Mapping[int, _Place]) -> tuple[_State, dict[int, int]]:
    """The states where detours leave the trace, except for `last`, and the row of each detour in them."""
    index = {place: i for i, place in enumerate(dict.fromkeys(left.values()))}
    states = [forced.passed(trace.passed[count], row) for count, row in index]
    return join(states), {i: index[place] for i, place in left.items()}


def _deviate(forced: _Forced, race: _Race, state: _State, rows: Mapping[int, int]) -> Steps[None]:
    """Score the tokens of detours that are not in the trace; yields after every token.

    Detours that have been the same so far share a row: `rows` gives the row in `state` of each live detour.
    """
    while race.live:
        live = sorted(race.live)
        read = list(zip((rows[i] for i in live), race.tokens(live, -1), strict=True))
        owner_of = {key: race.detours[i].row for key, i in zip(read, live, strict=True)}
        parents, last, owners = (
            torch.tensor(column, device=forced.device)
            for column in (*zip(*owner_of, strict=True), list(owner_of.values()))
        )
        state = forced.select(state, parents)._replace(last=last)
        state, every, log_probs = forced.step(state, owners)

        index = {key: i for i, key in enumerate(owner_of)}
        rows = {i: index[key] for i, key in zip(live, read, strict=True)}
        places = torch.tensor([list(rows.values()), race.tokens(live)], device=forced.device)
        race.add(live, *(x[places[0], places[1]].tolist() for x in (every, log_probs)))
        yield
