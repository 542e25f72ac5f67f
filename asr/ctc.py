"""The CTC head's companions: prefix scores for the search, and forced alignment for word times.

CTC: Graves et al. 2006. Prefix scores: Watanabe et al. 2017, "Hybrid CTC/Attention Architecture". The blank is token 0.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BLANK", "CtcPrefixScorer", "CtcState", "align", "collapse"]

BLANK = 0
_LOG_ZERO = -1e10


class CtcState(NamedTuple):
    """Forward variables of each hypothesis's prefix; rows are hypotheses."""

    ends: Tensor  # (N, 2, T) float64: log-probability of the prefix at frame t, ending in non-blank and in blank
    score: Tensor  # (N,) float64: log-probability of all that begins with the prefix

    def select(self, rows: Tensor) -> CtcState:
        return CtcState(self.ends.index_select(0, rows), self.score.index_select(0, rows))


class CtcPrefixScorer:
    """How likely, by CTC alone, is everything that begins with a hypothesis and a next token.

    The recursion over frames, r[t] = x[t] + logaddexp(r[t-1], s[t-1]), becomes a cumulative sum and a cumulative
    logsumexp, so that no loop runs over frames. Both are taken in float64: the sums grow to thousands while their
    differences are what matters.
    """

    def __init__(self, log_probs: Tensor, lengths: Tensor, beams: int) -> None:
        """`log_probs` `(B, T, V)` of the CTC head, `lengths` `(B,)` >= 1, `beams` hypotheses for each of the B."""
        batch, frames, _ = log_probs.shape
        inside = torch.arange(frames, device=log_probs.device) < lengths[:, None]
        # Beyond its end an utterance goes on with blanks for certain, which leaves every prefix as it was.
        ended = torch.full_like(log_probs[:1, :1], _LOG_ZERO)
        ended[..., BLANK] = 0.0
        self.log_probs = torch.where(inside[..., None], log_probs, ended).double().transpose(1, 2).contiguous()
        self.beams = beams
        self.rows = torch.arange(batch, device=log_probs.device).repeat_interleave(beams)

    def initial_state(self) -> CtcState:
        """The empty prefix, for all B * beams hypotheses."""
        blank = self.log_probs[:, BLANK].cumsum(-1)
        ends = torch.stack([torch.full_like(blank, _LOG_ZERO), blank], dim=1)
        return CtcState(ends[self.rows], torch.zeros_like(blank[:, 0])[self.rows])

    def step(self, state: CtcState, last: Tensor, candidates: Tensor, eos: int) -> tuple[Tensor, Tensor]:
        """Scores of each candidate as the next token.

        Args:
            state: of the N = B * beams prefixes.
            last: `(N,)`, each prefix's last token (sos at the start).
            candidates: `(N, C)` tokens; the eos among them scores the prefix as complete.
            eos: the token that ends a sentence.

        Returns:
            increments `(N, C)` float32: the log-probability of the longer prefix less that of `state`, and the forward
            variables `(N, C, 2, T)` from which `advance` picks.
        """
        x = self.log_probs[self.rows[:, None], candidates]  # (N, C, T)
        before = torch.cat([torch.full_like(state.ends[..., :1], _LOG_ZERO), state.ends[..., :-1]], dim=-1)
        # Before the first frame the empty prefix has probability one, and no other has any. A prefix that does not fit
        # into the frames ends nowhere either, but its score says that it is not the empty one.
        empty = (state.ends[:, 0] <= _LOG_ZERO / 2).all(-1) & (state.score > _LOG_ZERO / 2)
        before[:, 1, 0] = torch.where(empty, 0.0, _LOG_ZERO)
        either = torch.logaddexp(before[:, 0], before[:, 1])[:, None]
        repeats = (candidates == last[:, None])[..., None]
        # A repeated token is a new one only after a blank.
        enter = torch.where(repeats, before[:, None, 1], either)  # (N, C, T)
        token_ends = _scan(x, enter)
        shifted = torch.cat([torch.full_like(token_ends[..., :1], _LOG_ZERO), token_ends[..., :-1]], dim=-1)
        blank = self.log_probs[self.rows, BLANK][:, None].expand_as(x)
        blank_ends = _scan(blank, shifted)
        prefix = torch.logsumexp(enter + x, dim=-1)
        complete = torch.logaddexp(state.ends[:, 0, -1], state.ends[:, 1, -1])[:, None]
        total = torch.where(candidates == eos, complete, prefix).clamp(min=_LOG_ZERO)
        return (total - state.score[:, None]).float(), torch.stack([token_ends, blank_ends], dim=2)

    def advance(self, state: CtcState, increments: Tensor, ends: Tensor, parents: Tensor, chosen: Tensor) -> CtcState:
        """The state of new hypotheses: for each, its parent row `(N',)` and which candidate `(N',)` it took."""
        return CtcState(ends[parents, chosen], state.score[parents] + increments[parents, chosen].double())


def _scan(x: Tensor, enter: Tensor) -> Tensor:
    """r[t] = x[t] + logaddexp(r[t-1], enter[t]) along the last dimension, r[-1] = log 0, without a loop."""
    total = x.cumsum(-1)
    before = total - x  # the sum up to t - 1, exactly as the recursion has it
    return (total + torch.logcumsumexp(enter - before, dim=-1)).clamp(min=_LOG_ZERO)


def collapse(tokens: list[int]) -> list[int]:
    """A frame-by-frame CTC path as tokens: repeats joined, blanks dropped."""
    return [t for i, t in enumerate(tokens) if t != BLANK and (i == 0 or t != tokens[i - 1])]


def align(log_probs: Tensor, tokens: list[int]) -> list[tuple[int, int]] | None:
    """Forced alignment: the most likely CTC path that spells `tokens`.

    Args:
        log_probs: `(T, V)` of one utterance.
        tokens: what was said, no blanks.

    Returns:
        For each token its first frame and the frame after its last, or None where the utterance has too few frames to
        hold the tokens.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    if not tokens or len(tokens) + repeats > log_probs.shape[0]:
        return None
    from torchaudio.functional import forced_align

    targets = torch.tensor([tokens], dtype=torch.int32, device=log_probs.device)
    path, _ = forced_align(log_probs[None].float().contiguous(), targets, blank=BLANK)
    spans: list[tuple[int, int]] = []
    previous = BLANK
    for frame, token in enumerate(path[0].tolist()):
        if token != BLANK and token != previous:
            spans.append((frame, frame + 1))
        elif token != BLANK:
            spans[-1] = (spans[-1][0], frame + 1)
        previous = token
    return spans
