"""Scorers of a beam search: what a next token adds to the score of a hypothesis, with their state as a value.

Rows are N hypotheses; those of each utterance are consecutive. A full scorer (`Scorer`) scores the whole vocabulary, a
partial one (`PartialScorer`), which would take too long for that, only the candidates that the full scorers leave. The
search multiplies by the weights and adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.attention import Memory
from asr.model.decoder import Decoder, DecoderState
from asr.model.lm import LmState, TokenPredictor
from asr.search.ctc import CtcPrefixes, CtcState
from asr.text.tokenizer import EOS

__all__ = [
    "CoverageScorer",
    "CtcScorer",
    "DecoderScorer",
    "LengthScorer",
    "LmScorer",
    "Next",
    "PartialScorer",
    "Scorer",
    "View",
    "full_scorers",
    "score_next",
]

# The score of a token that does not fit into the frames. With a much lower one, the other scores of a hypothesis would
# vanish in float32, and the order of hypotheses that do not fit would be random.
_IMPOSSIBLE = -1e4


class View(NamedTuple):
    """The input of every scorer at a step."""

    last: Tensor  # (N,): last token of each hypothesis
    log_probs: Tensor  # (N, V): the decoder's
    alignment: Tensor  # (N, T): attention of this step, mean over the heads


class Scorer(Protocol):
    """Full scorer: scores the whole vocabulary."""

    def initial_state(self, owners: Tensor) -> Any:
        """State of empty hypotheses of the utterances `owners` `(N,)`."""

    def score(self, view: View, state: Any) -> tuple[Tensor, Any]:
        """What each token adds, `(N, V)` or broadcastable to it, and the state after the step."""

    def select(self, state: Any, rows: Tensor) -> Any:
        """The state of the hypotheses `rows` `(N',)`."""


class PartialScorer(Protocol):
    """Partial scorer: scores some candidates of each hypothesis."""

    def initial_state(self, owners: Tensor) -> Any:
        """State of empty hypotheses of the utterances `owners` `(N,)`."""

    def score(self, view: View, candidates: Tensor, state: Any) -> tuple[Tensor, Any]:
        """What each of `candidates` `(N, C)` adds, `(N, C)`, and the state after the step."""

    def select(self, state: Any, rows: Tensor, places: Tensor) -> Any:
        """The state of N' hypotheses: of `rows` `(N',)`, each with its candidate of column `places` `(N',)`."""


class DecoderScorer:
    """Log-probabilities of the decoder."""

    def initial_state(self, owners: Tensor) -> None:
        return None

    def score(self, view: View, state: None) -> tuple[Tensor, None]:
        return view.log_probs, None

    def select(self, state: None, rows: Tensor) -> None:
        return None


class LengthScorer:
    """One for every token but eos: sums of log-probabilities alone favour short hypotheses."""

    def initial_state(self, owners: Tensor) -> None:
        return None

    def score(self, view: View, state: None) -> tuple[Tensor, None]:
        bonus = torch.ones_like(view.log_probs[:1])
        bonus[:, EOS] = 0.0
        return bonus, None

    def select(self, state: None, rows: Tensor) -> None:
        return None


class CoverageScorer:
    """Minus the total attention to a frame beyond a threshold: a penalty for transcribing the same audio twice.

    After Tu et al. 2016 and Chorowski and Jaitly 2017. With `mean`, as in SpeechBrain, every token adds the excess
    of all tokens so far, divided by their number.
    """

    def __init__(self, threshold: float, frames: int, device: torch.device, mean: bool = False) -> None:
        self.threshold, self.frames, self.device, self.mean = threshold, frames, device, mean

    def initial_state(self, owners: Tensor) -> Tensor:
        return torch.zeros(len(owners), self.frames, device=self.device)

    def score(self, view: View, state: Tensor) -> tuple[Tensor, Tensor]:
        total = state + view.alignment
        beyond = (total - self.threshold).clamp(min=0).sum(-1)
        if self.mean:  # the weights of each token add up to one, so that the sum is the number of tokens
            return -(beyond / total.sum(-1).clamp(min=1))[:, None], total
        return -(beyond - (state - self.threshold).clamp(min=0).sum(-1))[:, None], total

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state.index_select(0, rows)


class LmScorer:
    """Log-probabilities of a language model, eos included: shallow fusion, Gulcehre et al. 2015.

    Args:
        lm: over the same tokens.
        known: its state after the known tokens of each utterance, if the hypotheses begin with any.
        temperature: divides its log-probabilities, which are then normalised again.
    """

    def __init__(self, lm: TokenPredictor, known: LmState | None = None, temperature: float = 1.0) -> None:
        self.lm, self.known, self.temperature = lm, known, temperature

    def initial_state(self, owners: Tensor) -> LmState:
        return self.lm.initial_state(len(owners)) if self.known is None else self.known.select(owners)

    def score(self, view: View, state: LmState) -> tuple[Tensor, LmState]:
        scores, state = self.lm.step(view.last, state)
        return (scores if self.temperature == 1 else (scores / self.temperature).log_softmax(-1)), state

    def select(self, state: LmState, rows: Tensor) -> LmState:
        return state.select(rows)


class _CtcStep(NamedTuple):
    """A step of `CtcScorer` before the search has chosen among the candidates."""

    before: CtcState
    last: Tensor  # (N,)
    candidates: Tensor  # (N, C)
    scores: Tensor  # (N, C)


class CtcScorer:
    """CTC prefix scores: hybrid CTC/attention decoding, Watanabe et al. 2017."""

    def __init__(self, prefixes: CtcPrefixes) -> None:
        self.prefixes = prefixes

    def initial_state(self, owners: Tensor) -> CtcState:
        return self.prefixes.initial_state(owners)

    def score(self, view: View, candidates: Tensor, state: CtcState) -> tuple[Tensor, _CtcStep]:
        scores = self.prefixes.step(state, view.last, candidates, EOS)
        # A longer prefix is never more likely, but float32 rounds the first -1e10, so the next score can be above 0.
        return scores.clamp(_IMPOSSIBLE, 0.0), _CtcStep(state, view.last, candidates, scores)

    def select(self, state: _CtcStep, rows: Tensor, places: Tensor) -> CtcState:
        tokens, scores = state.candidates[rows, places], state.scores[rows, places]
        return self.prefixes.advance(state.before, state.last, rows, tokens, scores)


def full_scorers(
    config: SearchConfig,
    vocab_size: int,
    frames: int,
    device: torch.device,
    lm: TokenPredictor | None,
    known: LmState | None,
) -> list[tuple[float, Scorer]]:
    """The full scorers of a search, each with its weight; those without a weight are left out.

    Args:
        config: weights.
        vocab_size: of the model.
        frames: of the encoder output.
        device: of the model.
        lm: over the same tokens; None: there is none.
        known: its state after the known tokens of each utterance, if the hypotheses begin with any.

    Raises:
        ConfigError: the lm has a vocabulary of another size.
    """
    scorers: list[tuple[float, Scorer]] = [
        (1 - config.ctc_weight, DecoderScorer()),
        (config.length_bonus, LengthScorer()),
        (config.coverage_penalty, CoverageScorer(config.coverage_threshold, frames, device, config.coverage_mean)),
    ]
    if lm is not None:
        if lm.config.vocab_size != vocab_size:
            raise ConfigError(f"lm.vocab_size is {lm.config.vocab_size}: it must be the model's, {vocab_size}")
        scorers.append((config.lm_weight, LmScorer(lm, known, config.lm_temperature)))
    return [(weight, scorer) for weight, scorer in scorers if weight != 0]


class Next(NamedTuple):
    """Scores of every token that may follow N hypotheses."""

    decoder: DecoderState  # after the last token of each hypothesis
    view: View
    added: Tensor  # (N, V): weighted scores of the full scorers
    full: list[Any]  # their states


def score_next(
    decoder: Decoder,
    scorers: Sequence[tuple[float, Scorer]],
    temperature: float,
    last: Tensor,
    state: DecoderState,
    full: Sequence[Any],
    memory: Memory,
) -> Next:
    """Step the decoder by the last token `(N,)` of each hypothesis, and score every possible next one.

    Args:
        decoder: of the model.
        scorers: from `full_scorers`.
        temperature: divides the decoder's logits.
        last: tokens.
        state: of the decoder before them.
        full: the scorers' states before them.
        memory: what the hypotheses attend to.
    """
    readout, after = decoder.step(last, state, memory)
    log_probs = (decoder.logits(readout).float() / temperature).log_softmax(-1)
    view = View(last, log_probs, after.alignment.mean(dim=1).float())
    added, states = torch.zeros_like(log_probs), []
    for (weight, scorer), before in zip(scorers, full, strict=True):
        scores, following = scorer.score(view, before)
        added = added + weight * scores
        states.append(following)
    return Next(after, view, added, states)
