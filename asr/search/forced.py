"""What a search would give to hypotheses that differ from a known one in one place.

The known hypothesis is scored once, token by token. Each other one starts from the state in which it leaves the known
one, and is scored until it has gone on with it again for a few tokens. One that falls too far behind is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.beams import Prefix
from asr.search.scorers import View, full_scorers
from asr.steps import Steps
from asr.text.tokenizer import EOS, SOS

__all__ = ["Detour", "Scored", "score_detours"]

_AFTER = 3  # tokens after a detour that are scored with it
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
        self, model: Model, encoded: Encoded, config: SearchConfig, lm: TokenPredictor | None, prefix: Prefix | None
    ) -> None:
        self.model, self.temperature = model, config.temperature
        self.device, frames = encoded.encoder_out.device, encoded.encoder_out.shape[1]
        self.prefix, self.memory = prefix.widened(frames) if prefix else None, model.decoder.prepare(*encoded)
        known = prefix.lm if prefix else None
        self.scorers = full_scorers(config, model.config.vocab_size, frames, self.device, lm, known)

    def start(self, owners: Tensor) -> _State:
        if self.prefix:
            last, decoder = self.prefix.last[owners], self.prefix.decoder.select(owners)
        else:
            last = torch.full_like(owners, SOS)
            decoder = self.model.decoder.initial_state(self.memory).select(owners)
        return _State(last, decoder, [scorer.initial_state(owners) for _, scorer in self.scorers])

    def select(self, state: _State, rows: Tensor) -> _State:
        full = [scorer.select(some, rows) for (_, scorer), some in zip(self.scorers, state.full, strict=True)]
        return _State(state.last.index_select(0, rows), state.decoder.select(rows), full)

    def step(self, state: _State, owners: Tensor) -> tuple[_State, Tensor, Tensor]:
        """Go on to the next token, whatever it is.

        Returns:
            The state after it, but for `last`; `(N, V)` weighted scores of each token; their log-probabilities by the
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
    prefix: Prefix | None,
    known: Mapping[int, Sequence[int]],
    detours: Sequence[Detour],
) -> Steps[list[Scored | None]]:
    """Score detours from known hypotheses by everything that a search scores by but CTC; yields after every token.

    Args:
        model: in evaluation mode.
        encoded: of B utterances.
        config: weights.
        lm: as in `beam_search`.
        prefix: as in `beam_search`.
        known: tokens of the known hypothesis of each row that has detours, without eos.
        detours: in ascending order of their rows.

    Returns:
        A score for each; None: it was dropped.
    """
    if not detours:
        return []
    forced = _Forced(model, encoded, config, lm, prefix)
    sums, branched = yield from _follow(forced, known, detours)
    return (yield from _deviate(forced, known, detours, sums, branched))


class _Branched(NamedTuple):
    """Detours after their first token."""

    state: _State  # rows are detours
    added: list[float]  # by the first token
    by_decoder: list[float]


def _follow(
    forced: _Forced, known: Mapping[int, Sequence[int]], detours: Sequence[Detour]
) -> Steps[tuple[dict[int, list[float]], _Branched]]:
    """For each row the sums of its scores before each token that is needed; and where the detours leave it."""
    rows = sorted(known)
    sums = {row: [0.0] for row in rows}
    owners = torch.tensor(rows, device=forced.device)
    state = forced.start(owners)
    parts, order, first = [], [], []
    needed = {row: max(min(d.end + _AFTER, len(known[row]) + 1) for d in detours if d.row == row) for row in rows}
    for u in range(max(needed.values())):
        if any(needed[row] <= u for row in rows):
            live = [i for i, row in enumerate(rows) if needed[row] > u]
            rows, kept = [rows[i] for i in live], torch.tensor(live, device=forced.device)
            owners, state = owners[kept], forced.select(state, kept)
        state, added, by_decoder = forced.step(state, owners)
        if leaving := [i for i, detour in enumerate(detours) if detour.start == u]:
            places = torch.tensor([rows.index(detours[i].row) for i in leaving], device=forced.device)
            tokens = torch.tensor([detours[i].tokens[0] for i in leaving], device=forced.device)
            parts.append(forced.select(state, places)._replace(last=tokens))
            first.append(torch.stack([added[places, tokens], by_decoder[places, tokens]]))
            order += leaving
        following = torch.tensor([[*known[row], EOS][u] for row in rows], device=forced.device)
        state = state._replace(last=following)
        for row, value in zip(rows, added.gather(1, following[:, None])[:, 0].tolist(), strict=True):
            sums[row].append(sums[row][-1] + value)
        yield
    back = torch.tensor(order, device=forced.device).argsort()
    values = torch.cat(first, dim=1)[:, back].tolist()
    return sums, _Branched(forced.select(_joined(parts), back), *values)


def _deviate(
    forced: _Forced,
    known: Mapping[int, Sequence[int]],
    detours: Sequence[Detour],
    sums: dict[int, list[float]],
    branched: _Branched,
) -> Steps[list[Scored | None]]:
    texts = [[*d.tokens, *[*known[d.row], EOS][d.end : d.end + _AFTER]] for d in detours]
    gains: list[float] = [0.0] * len(detours)
    token_scores: list[list[float]] = [[] for _ in detours]
    found: list[Scored | None] = [None] * len(detours)
    live, (state, added, by_decoder) = list(range(len(detours))), branched
    for u in range(max(map(len, texts))):
        kept = []
        for place, (i, value, log_prob) in enumerate(zip(live, added, by_decoder, strict=True)):
            detour, after = detours[i], max(0, u + 1 - len(detours[i].tokens))
            gains[i] += value
            token_scores[i].append(log_prob)
            gain = gains[i] - (sums[detour.row][detour.end + after] - sums[detour.row][detour.start])
            if u + 1 == len(texts[i]):
                found[i] = Scored(gain, token_scores[i][: len(detour.tokens)])
            elif gain + detour.allowance + _RESERVE > 0:
                kept.append(place)
        if not kept:
            break
        live, state = [live[place] for place in kept], forced.select(state, torch.tensor(kept, device=forced.device))
        owners = torch.tensor([detours[i].row for i in live], device=forced.device)
        tokens = torch.tensor([texts[i][u + 1] for i in live], device=forced.device)
        state, every, log_probs = forced.step(state, owners)
        added, by_decoder = (x.gather(1, tokens[:, None])[:, 0].tolist() for x in (every, log_probs))
        state = state._replace(last=tokens)
        yield
    return found


def _joined(parts: Sequence[Any]) -> Any:
    """States one after the other: tensors, None, or tuples and lists of these."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    values = [_joined(some) for some in zip(*parts, strict=True)]
    return values if isinstance(first, list) else type(first)(*values)
