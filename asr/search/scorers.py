"""What a beam search may weigh a next token by: one class each, with its state as a value.

Rows are hypotheses: N = utterances * beams. A scorer says what a token adds to a hypothesis's score; the search
multiplies with the weight and adds up.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asr.model.lm import LmState, TokenPredictor
from asr.text.tokenizer import EOS

__all__ = ["AttentionScorer", "CoverageScorer", "LengthScorer", "LmScorer", "Scorer", "View"]


class View(NamedTuple):
    """What every scorer is shown at a step."""

    last: Tensor  # (N,): the hypotheses' last tokens
    log_probs: Tensor  # (N, V): the speller's
    alignment: Tensor  # (N, T): where it looked, mean over heads


class Scorer(Protocol):
    """A scorer over the whole vocabulary."""

    def initial_state(self, rows: int) -> Any:
        """State of `rows` empty hypotheses."""

    def score(self, view: View, state: Any) -> tuple[Tensor, Any]:
        """What each token adds, `(N, V)` or broadcastable to it, and the state once the step is made."""

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of the hypotheses `rows` `(N',)`."""


class AttentionScorer:
    """The speller's own log-probabilities."""

    def initial_state(self, rows: int) -> None:
        return None

    def score(self, view: View, state: None) -> tuple[Tensor, None]:
        return view.log_probs, None

    def select(self, state: None, rows: Tensor) -> None:
        return None


class LengthScorer:
    """One for every token but eos: sums of log-probabilities alone favour short hypotheses."""

    def initial_state(self, rows: int) -> None:
        return None

    def score(self, view: View, state: None) -> tuple[Tensor, None]:
        bonus = torch.ones_like(view.log_probs[:1])
        bonus[:, EOS] = 0.0
        return bonus, None

    def select(self, state: None, rows: Tensor) -> None:
        return None


class CoverageScorer:
    """Minus the attention that frames have got beyond a threshold: against saying the same audio twice.

    After Tu et al. 2016 and Chorowski and Jaitly 2017.
    """

    def __init__(self, threshold: float, frames: int, device: torch.device) -> None:
        self.threshold, self.frames, self.device = threshold, frames, device

    def initial_state(self, rows: int) -> Tensor:
        return torch.zeros(rows, self.frames, device=self.device)

    def score(self, view: View, state: Tensor) -> tuple[Tensor, Tensor]:
        total = state + view.alignment
        more = (total - self.threshold).clamp(min=0).sum(-1) - (state - self.threshold).clamp(min=0).sum(-1)
        return -more[:, None], total

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state.index_select(0, rows)


class LmScorer:
    """A language model's log-probabilities, eos included: shallow fusion, Gulcehre et al. 2015.

    `known` is the state of rows that go on from known tokens.
    """

    def __init__(self, lm: TokenPredictor, known: LmState | None = None) -> None:
        self.lm, self.known = lm, known

    def initial_state(self, rows: int) -> LmState:
        return self.lm.initial_state(rows) if self.known is None else self.known

    def score(self, view: View, state: LmState) -> tuple[Tensor, LmState]:
        return self.lm.step(view.last, state)

    def select(self, state: LmState, rows: Tensor) -> LmState:
        return state.select(rows)
