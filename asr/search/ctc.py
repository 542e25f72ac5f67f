"""CTC prefix scores for the beam search.

CTC: Graves et al. 2006. Prefix scores: Watanabe et al. 2017, "Hybrid CTC/Attention Architecture".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from asr.text.tokenizer import BLANK

__all__ = ["CtcPrefixes", "CtcState", "blank_padding", "from_frame"]

_LOG_ZERO = -1e10


class CtcState(NamedTuple):
    """Forward variables of the prefixes; rows are hypotheses."""

    ends: Tensor  # (N, 2, T) float64: log-probability of the prefix at frame t, ending in non-blank and in blank
    score: Tensor  # (N,) float64: log-probability of all texts that begin with the prefix
    owners: Tensor  # (N,): the utterance of each prefix

    def select(self, rows: Tensor) -> CtcState:
        return CtcState(*(x.index_select(0, rows) for x in self))


class CtcPrefixes:
    """CTC probabilities of all texts that begin with a prefix.

    The recursion over frames, r[t] = x[t] + logaddexp(r[t-1], s[t-1]), becomes a cumulative sum and a cumulative
    logsumexp, without a loop over frames. Both are computed in float64, because the sums grow to thousands and their
    differences are what matters.
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor) -> None:
        """`log_probs` `(B, T, V)` of the CTC head, `lengths` `(B,)` >= 1."""
        self.log_probs = blank_padding(log_probs, lengths).double().transpose(1, 2).contiguous()
        self.probs = self.log_probs.exp()

    def initial_state(self, owners: Tensor) -> CtcState:
        """The empty prefix of the utterances `owners` `(N,)`."""
        blank = self.log_probs[:, BLANK].cumsum(-1)
        ends = torch.stack([torch.full_like(blank, _LOG_ZERO), blank], dim=1)
        return CtcState(ends[owners], torch.zeros_like(blank[:, 0])[owners], owners)

    def step(self, state: CtcState, last: Tensor, candidates: Tensor, eos: int) -> Tensor:
        """Scores of each candidate as the next token.

        Args:
            state: of the N prefixes.
            last: `(N,)`, each prefix's last token (sos at the start).
            candidates: `(N, C)` tokens; the eos among them scores the prefix as complete.
            eos: the token that ends a sentence.

        Returns:
            `(N, C)` float32: the log-probability of the longer prefix minus that of `state`.
        """
        either, after_blank = self._entries(state)
        # The logsumexp over frames of either + x, as a product of probabilities, because exp of (N, C, T) is slow.
        peak = either.amax(dim=-1, keepdim=True)
        x = self.probs[state.owners[:, None], candidates]  # (N, C, T)
        prefix = torch.bmm(x, (either - peak).exp()[..., None])[..., 0].log() + peak
        # A repeated token is a new one only after a blank.
        again = (self.probs[state.owners, last] * (after_blank - peak).exp()).sum(dim=-1, keepdim=True).log() + peak
        prefix = torch.where(candidates == last[:, None], again, prefix)
        complete = torch.logaddexp(state.ends[:, 0, -1], state.ends[:, 1, -1])[:, None]
        total = torch.where(candidates == eos, complete, prefix).clamp(min=_LOG_ZERO)
        return (total - state.score[:, None]).float()

    def advance(self, state: CtcState, last: Tensor, parents: Tensor, tokens: Tensor, increments: Tensor) -> CtcState:
        """The state of N new hypotheses, each of its own utterance's prefixes with one more token.

        Args:
            state: of the prefixes.
            last: `(N,)`, their last tokens.
            parents: `(N,)`, row of the prefix that each continues.
            tokens: `(N,)`, the token that each adds.
            increments: `(N,)`, their scores by `step`.
        """
        before = state.select(parents)
        either, after_blank = self._entries(before)
        repeats = (tokens == last[parents])[:, None]
        token_ends = _scan(self.log_probs[before.owners, tokens], torch.where(repeats, after_blank, either))
        blank_ends = _scan(self.log_probs[before.owners, BLANK], _delayed(token_ends))
        return CtcState(torch.stack([token_ends, blank_ends], dim=1), before.score + increments.double(), before.owners)

    def _entries(self, state: CtcState) -> tuple[Tensor, Tensor]:
        """Log-probabilities `(N, T)` that the prefix is complete before frame t: in any way, and with a blank."""
        before = _delayed(state.ends)
        # Before the first frame the empty prefix has probability one, any other zero. A prefix that does not fit into
        # the frames ends nowhere either; its score tells it from the empty one.
        empty = (state.ends[:, 0] <= _LOG_ZERO / 2).all(-1) & (state.score > _LOG_ZERO / 2)
        before[:, 1, 0] = torch.where(empty, 0.0, _LOG_ZERO)
        return torch.logaddexp(before[:, 0], before[:, 1]), before[:, 1]


def blank_padding(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """`(B, T, V)` where padding is blank with probability one, which leaves the text of every path unchanged."""
    inside = torch.arange(log_probs.shape[1], device=log_probs.device) < lengths[:, None]
    ended = torch.full_like(log_probs[:1, :1], _LOG_ZERO)
    ended[..., BLANK] = 0.0
    return torch.where(inside[..., None], log_probs, ended)


def from_frame(log_probs: Tensor, first_frame: Tensor) -> Tensor:
    """`(B, T, V)` without the frames before `first_frame` `(B,)`, padded at the end with copies of the last frame."""
    frames = torch.arange(log_probs.shape[1], device=log_probs.device) + first_frame[:, None]
    frames = frames.clamp(max=log_probs.shape[1] - 1)[..., None]
    return log_probs.gather(1, frames.expand_as(log_probs))


def _delayed(ends: Tensor) -> Tensor:
    """Shifted by one frame along the last dimension, with log 0 in front."""
    return torch.cat([torch.full_like(ends[..., :1], _LOG_ZERO), ends[..., :-1]], dim=-1)


def _scan(x: Tensor, enter: Tensor) -> Tensor:
    """r[t] = x[t] + logaddexp(r[t-1], enter[t]) along the last dimension, r[-1] = log 0, without a loop."""
    total = x.cumsum(-1)
    before = total - x  # the sum up to t - 1, exactly as the recursion has it
    return (total + torch.logcumsumexp(enter - before, dim=-1)).clamp(min=_LOG_ZERO)
