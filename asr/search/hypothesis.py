"""Result of a search, and the stopping rules that greedy and beam search share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Hypothesis", "Repeats", "all_done", "token_limits"]

# Asking whether all rows have ended makes the host wait for the GPU, so it is asked once in several steps.
_CHECK_EVERY = 8

# The longest phrase, in tokens, whose repetition is noticed.
_LONGEST_PHRASE = 8


@dataclass(frozen=True)
class Hypothesis:
    """Tokens without sos and eos, the total score, and the decoder's log-probability of each token."""

    tokens: list[int]
    score: float
    token_scores: list[float]

    def after(self, tokens: int) -> Hypothesis:
        """The hypothesis without its first `tokens` tokens; the score stays that of the whole."""
        return Hypothesis(self.tokens[tokens:], self.score, self.token_scores[tokens:])


def token_limits(lengths: Tensor, frame_seconds: float, per_second: float) -> Tensor:
    """Maximum length of a hypothesis of each row `(B,)`, in tokens: a few more than the rate allows."""
    return (lengths * (frame_seconds * per_second)).ceil().long() + 4


def all_done(done: Tensor, step: int) -> bool:
    """Whether all rows have ended; on a GPU, checked once in several steps."""
    if done.device.type != "cpu" and step % _CHECK_EVERY != _CHECK_EVERY - 1:
        return False
    return bool(done.all())


class Repeats(NamedTuple):
    """Detects a hypothesis that repeats a phrase over and over, as happens when attention is stuck."""

    recent: Tensor  # (N, 8): the last tokens, newest first
    runs: Tensor  # (N, 8): column n: number of latest tokens that equal the token n + 1 places before them

    @classmethod
    def start(cls, rows: int, device: torch.device) -> Repeats:
        recent = torch.full((rows, _LONGEST_PHRASE), -1, device=device)
        return cls(recent, torch.zeros_like(recent))

    def add(self, tokens: Tensor, max_repeats: int) -> tuple[Repeats, Tensor]:
        """Append `tokens` `(N,)`; returns `(N,)` too: rows that end in a phrase repeated over `max_repeats` times."""
        runs = (self.runs + 1) * (self.recent == tokens[:, None])
        lengths = torch.arange(1, _LONGEST_PHRASE + 1, device=tokens.device)
        recent = torch.cat([tokens[:, None], self.recent[:, :-1]], dim=1)
        return Repeats(recent, runs), (runs >= lengths * max_repeats).any(dim=1)

    def select(self, rows: Tensor) -> Repeats:
        return Repeats(self.recent.index_select(0, rows), self.runs.index_select(0, rows))
