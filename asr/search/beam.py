"""Batched beam search over (utterances x beams), with lists of full and of partial scorers.

After Watanabe et al. 2017 and the batched form of Seki et al. 2019. Every tensor keeps its shape from the first step to
the last, finished utterances are frozen, and the host reads from the device only once in several steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.decoder import DecoderState
from asr.model.las import Encoded, Model
from asr.model.lm import LmState, TokenPredictor
from asr.search.ctc import CtcPrefixes, from_frame
from asr.search.hotwords import Automaton, HotwordScorer
from asr.search.hypothesis import Hypothesis, Repeats, all_done, token_limits
from asr.search.scorers import (
    CoverageScorer,
    CtcScorer,
    DecoderScorer,
    LengthScorer,
    LmScorer,
    PartialScorer,
    Scorer,
    View,
)
from asr.text.tokenizer import EOS, SOS

__all__ = ["Prefix", "beam_search"]

# A live hypothesis whose score is this many length bonuses, and the largest bonus of a hotword, behind that of a
# finished one is taken to be beaten.
_BONUS_TOKENS = 8


class Beams(NamedTuple):
    """The live hypotheses; rows are utterances * beams, best first within each utterance."""

    tokens: Tensor  # (N, L), the first `step` of them known
    token_scores: Tensor  # (N, L), their log-probabilities by the decoder
    last: Tensor  # (N,)
    scores: Tensor  # (B, K)
    decoder: DecoderState
    full: list[Any]  # states of the full scorers
    partial: list[Any]  # states of the partial scorers
    repeats: Repeats


class Prefix(NamedTuple):
    """Start of a search over B utterances whose first words are known, as the committed words of a stream are."""

    last: Tensor  # (B,): last known token; sos if there is none
    decoder: DecoderState  # after all known tokens but the last; its alignments may be shorter than the encoder_out
    first_frame: Tensor  # (B,): first frame after the known words, with which CTC scores begin
    word_starts: Tensor  # (V,) bool: tokens that begin a word; only these may follow the known words
    lm: LmState | None = None  # the language model's, also after all tokens but the last; None: its initial state
    hotwords: Sequence[int] | None = None  # (B,), nodes of the automata after all tokens but the last; None: the roots

    def widened(self, frames: int) -> Prefix:
        """Alignments cut, or padded with zeros, to `frames`."""
        missing = frames - self.decoder.alignment.shape[-1]
        alignment = torch.nn.functional.pad(self.decoder.alignment, (0, missing))
        return self._replace(decoder=self.decoder._replace(alignment=alignment))


class Finished(NamedTuple):
    """The best finished hypotheses, best first; a score of minus infinity marks an empty place."""

    scores: Tensor  # (B, K)
    tokens: Tensor  # (B, K, L), eos-padded
    token_scores: Tensor  # (B, K, L)

    def merge(self, scores: Tensor, tokens: Tensor, token_scores: Tensor) -> Finished:
        """Add `(B, K')` hypotheses and keep the best K."""
        scores = torch.cat([self.scores, scores], dim=1)
        best, places = scores.topk(self.scores.shape[1], dim=1)
        index = places[..., None].expand(-1, -1, tokens.shape[-1])
        return Finished(
            best,
            torch.cat([self.tokens, tokens], dim=1).gather(1, index),
            torch.cat([self.token_scores, token_scores], dim=1).gather(1, index),
        )


class _Search:
    """What stays the same during a search."""

    def __init__(
        self,
        model: Model,
        encoded: Encoded,
        config: SearchConfig,
        lm: TokenPredictor | None,
        prefix: Prefix | None,
        hotwords: Sequence[Automaton | None],
    ) -> None:
        encoder_out, lengths = encoded
        self.prefix = prefix.widened(encoder_out.shape[1]) if prefix else None
        self.model, self.config = model, config
        self.batch, self.beam = encoder_out.shape[0], config.beam_size
        self.device = encoder_out.device
        self.memory = model.decoder.prepare(encoder_out, lengths)

        first_frame = prefix.first_frame if prefix else torch.zeros_like(lengths)
        self.limits = token_limits(lengths - first_frame, model.config.frame_seconds, config.max_tokens_per_second)
        self.empty = lengths <= first_frame  # no frame is left after the prefix

        self.hope = torch.full_like(lengths, _BONUS_TOKENS * max(0.0, config.length_bonus), dtype=torch.float32)
        full, partial = self._full_scorers(encoder_out.shape[1], lm), self._partial_scorers(encoded, first_frame)
        if any(automaton is not None for automaton in hotwords) and config.hotword_weight > 0:
            known = self.prefix.hotwords if self.prefix else None
            scorer = HotwordScorer(hotwords, self.beam, self.device, known)
            full.append((config.hotword_weight, scorer))
            self.hope = self.hope + config.hotword_weight * scorer.most
        self.full = [(weight, scorer) for weight, scorer in full if weight != 0]
        self.partial = [(weight, scorer) for weight, scorer in partial if weight != 0]
        tokens = model.config.vocab_size - (EOS + 1)
        # A decoder without weight cannot choose candidates either: then all tokens are.
        self.candidates = tokens if config.ctc_weight == 1 else min(max(config.candidates, self.beam), tokens)

    def _full_scorers(self, frames: int, lm: TokenPredictor | None) -> list[tuple[float, Scorer]]:
        config = self.config
        scorers: list[tuple[float, Scorer]] = [
            (1 - config.ctc_weight, DecoderScorer()),
            (config.length_bonus, LengthScorer()),
            (config.coverage_penalty, self._coverage(frames)),
        ]
        if lm is not None:
            if lm.config.vocab_size != self.model.config.vocab_size:
                raise ConfigError(
                    f"lm.vocab_size is {lm.config.vocab_size}: it must be the model's, {self.model.config.vocab_size}"
                )
            known = self.prefix.lm if self.prefix else None
            known = known.repeat(self.beam) if known else None
            scorers.append((config.lm_weight, LmScorer(lm, known, config.lm_temperature)))
        return scorers

    def _coverage(self, frames: int) -> CoverageScorer:
        return CoverageScorer(self.config.coverage_threshold, frames, self.device, self.config.coverage_mean)

    def _partial_scorers(self, encoded: Encoded, first_frame: Tensor) -> list[tuple[float, PartialScorer]]:
        if self.config.ctc_weight == 0:
            return []
        log_probs = self.model.ctc_log_probs(encoded.encoder_out)
        if self.prefix:  # the known words are not scored again
            log_probs = from_frame(log_probs, first_frame)
        lengths = (encoded.encoder_out_lengths - first_frame).clamp(min=1)
        return [(self.config.ctc_weight, CtcScorer(CtcPrefixes(log_probs, lengths, self.beam)))]

    def start(self, longest: int) -> tuple[Beams, Finished]:
        rows = self.batch * self.beam
        scores = torch.full((self.batch, self.beam), -math.inf, device=self.device)
        tokens = torch.full((rows, longest), EOS, device=self.device)
        token_scores = torch.zeros(rows, longest, device=self.device)
        shape = (self.batch, self.beam, longest)
        finished = Finished(scores, tokens.view(shape), token_scores.view(shape))
        scores = scores.clone()
        scores[:, 0] = 0.0  # at the start all beams are the same, so only one is live
        scores[self.empty] = -math.inf
        last = torch.full((rows,), SOS, device=self.device)
        decoder = self.model.decoder.initial_state(self.memory, self.beam)
        if self.prefix:
            origin = torch.arange(rows, device=self.device) // self.beam
            last, decoder = self.prefix.last[origin], self.prefix.decoder.select(origin)
        beams = Beams(
            tokens=tokens,
            token_scores=token_scores,
            last=last,
            scores=scores,
            decoder=decoder,
            full=[scorer.initial_state(rows) for _, scorer in self.full],
            partial=[scorer.initial_state(rows) for _, scorer in self.partial],
            repeats=Repeats.start(rows, self.device),
        )
        return beams, finished

    def step(self, step: int, beams: Beams, finished: Finished) -> tuple[Beams, Finished, Tensor]:
        """Extend every live hypothesis by a token; also returns `(B,)` which utterances are done."""
        readout, decoder = self.model.decoder.step(beams.last, beams.decoder, self.memory)
        log_probs = (self.model.decoder.logits(readout).float() / self.config.temperature).log_softmax(-1)
        view = View(beams.last, log_probs, decoder.alignment.mean(dim=1).float())

        # Full scorers over the whole vocabulary.
        added, full = torch.zeros_like(log_probs), []
        for (weight, scorer), state in zip(self.full, beams.full, strict=True):
            scores, state = scorer.score(view, state)
            added = added + weight * scores
            full.append(state)
        added = self._allow(added, log_probs)
        if step == 0 and self.prefix:
            within_word = (beams.last != SOS)[:, None] & ~self.prefix.word_starts
            within_word[:, EOS] = False
            added = added.masked_fill(within_word, -math.inf)

        # The best tokens are the candidates; eos is always one more, and always the last.
        ending = added[:, EOS].clone()
        added[:, EOS] = -math.inf
        added, candidates = added.topk(self.candidates, dim=1)
        added = torch.cat([added, ending[:, None]], dim=1)
        candidates = torch.cat([candidates, torch.full_like(candidates[:, :1], EOS)], dim=1)

        # Partial scorers over the candidates.
        partial = []
        for (weight, partial_scorer), state in zip(self.partial, beams.partial, strict=True):
            scores, state = partial_scorer.score(view, candidates, state)
            added = added + weight * scores
            partial.append(state)

        # Hypotheses that end are finished; the best of the others live on.
        totals = (beams.scores.view(-1, 1) + added).view(self.batch, self.beam, -1)
        finished = self._finish(step, totals, beams, finished)
        scores, places = totals[..., :-1].flatten(1).topk(self.beam, dim=1)
        parents = torch.arange(self.batch, device=self.device)[:, None] * self.beam + places // self.candidates
        parents, places = parents.flatten(), (places % self.candidates).flatten()
        last = candidates[parents, places]

        # All states follow their hypotheses.
        repeats, looping = beams.repeats.select(parents).add(last, self.config.max_repeats)
        tokens, token_scores = beams.tokens.index_select(0, parents), beams.token_scores.index_select(0, parents)
        tokens[:, step], token_scores[:, step] = last, log_probs[parents, last]
        extended = Beams(
            tokens=tokens,
            token_scores=token_scores,
            last=last,
            scores=scores,
            decoder=decoder.select(parents),
            full=[s.select(state, parents) for (_, s), state in zip(self.full, full, strict=True)],
            partial=[s.select(state, parents, places) for (_, s), state in zip(self.partial, partial, strict=True)],
            repeats=repeats,
        )
        return self._stop(step, extended, looping.view_as(scores), finished)

    def _allow(self, added: Tensor, log_probs: Tensor) -> Tensor:
        """Forbid special tokens, and eos where another token is much more likely."""
        added = added.clone()
        added[:, :EOS] = -math.inf  # blank, unknown and sos; indexing with a list would copy it to the GPU
        if self.config.eos_threshold > 0 and self.config.ctc_weight < 1:
            early = log_probs[:, EOS] < self.config.eos_threshold * log_probs[:, EOS + 1 :].amax(dim=1)
            added[:, EOS] = added[:, EOS].masked_fill(early, -math.inf)
        return added

    def _finish(self, step: int, totals: Tensor, beams: Beams, finished: Finished) -> Finished:
        """Add the hypotheses whose end is among the best continuations of their utterance."""
        last_kept = totals.flatten(1).topk(self.beam, dim=1).values[:, -1:]
        ended = totals[..., -1]
        ended = ended.masked_fill(ended < last_kept, -math.inf)
        ended = ended / (step + 1) if self.config.length_normalisation else ended
        shape = finished.tokens.shape
        return finished.merge(ended, beams.tokens.view(shape), beams.token_scores.view(shape))

    def _stop(self, step: int, beams: Beams, looping: Tensor, finished: Finished) -> tuple[Beams, Finished, Tensor]:
        """Drop hypotheses that loop or are too long, and freeze utterances in which no live one can still win.

        With scores per token, any longer one can win: then as many as the beam must have ended, and those that are too
        long are taken as they are.
        """
        too_long, per_token = step + 1 >= self.limits, self.config.length_normalisation
        scores = beams.scores.masked_fill(looping | too_long[:, None], -math.inf)
        # Where no hypothesis has ended and none lives on, keep those of the step before.
        lost = finished.scores[:, 0].isneginf() & scores.isneginf().all(dim=1)
        lost = lost | too_long if per_token else lost
        shape = finished.tokens.shape
        rescued = beams.scores.masked_fill(~lost[:, None], -math.inf)
        rescued = rescued / (step + 1) if per_token else rescued
        finished = finished.merge(rescued, beams.tokens.view(shape), beams.token_scores.view(shape))
        if per_token:
            done = ~finished.scores[:, -1].isneginf() | scores.isneginf().all(dim=1)
        else:
            done = finished.scores[:, self.config.nbest - 1] >= scores.amax(dim=1) + self.hope
        return beams._replace(scores=scores.masked_fill(done[:, None], -math.inf)), finished, done


@torch.inference_mode()
def beam_search(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    prefix: Prefix | None = None,
    hotwords: Sequence[Automaton | None] = (),
) -> list[list[Hypothesis]]:
    """Search with every scorer that has a weight in the config.

    Args:
        model: in evaluation mode.
        encoded: of B utterances; one without frames, or without frames after its prefix, gets an empty hypothesis.
        config: beam size, weights and limits.
        lm: over the same tokens, in evaluation mode and on the same device.
        prefix: known words to start from; hypotheses then hold only the tokens after them.
        hotwords: those of each utterance, None where it has none; empty: none has any.

    Returns:
        For each utterance up to `config.nbest` hypotheses, best first. Scores are weighted sums of log-probabilities.

    Raises:
        ConfigError: the lm has a vocabulary of another size.
    """
    if encoded.encoder_out.shape[1] == 0:
        return [[Hypothesis([], 0.0, [])] for _ in range(encoded.encoder_out.shape[0])]
    search = _Search(model, encoded, config, lm, prefix, hotwords)
    longest = int(search.limits.max())
    beams, finished = search.start(longest)
    for step in range(longest):
        beams, finished, done = search.step(step, beams, finished)
        if all_done(done, step):
            break
    rows = zip(finished.scores.tolist(), finished.tokens.tolist(), finished.token_scores.tolist(), strict=True)
    return [_hypotheses(*row, config.nbest) for row in rows]


def _hypotheses(
    scores: list[float], tokens: list[list[int]], token_scores: list[list[float]], nbest: int
) -> list[Hypothesis]:
    found = []
    for score, spelled, values in zip(scores[:nbest], tokens, token_scores, strict=False):
        if score > -math.inf:
            length = spelled.index(EOS) if EOS in spelled else len(spelled)
            found.append(Hypothesis(spelled[:length], score, values[:length]))
    return found or [Hypothesis([], 0.0, [])]
