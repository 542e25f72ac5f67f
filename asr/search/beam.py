"""Batched beam search over (utterances x beams), with lists of full and of partial scorers.

After Watanabe et al. 2017 and the batched form of Seki et al. 2019. On a GPU every tensor keeps its shape from the
first step to the last, finished utterances are frozen, and the host reads from the device only once in several steps.
On a CPU only live hypotheses are computed: utterances end at different steps, and a margin leaves few of the others.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model import fast
from asr.model.attention import Memory
from asr.model.decoder import DecoderState
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.beams import Beams, Finished, Listened, Prefix
from asr.search.ctc import CtcPrefixes, from_frame
from asr.search.hypothesis import Hypothesis, Repeats, all_done, token_limits
from asr.search.scorers import CtcScorer, PartialScorer, full_scorers, score_next
from asr.search.trace import NextScores, Passed, Trace
from asr.steps import Steps, finish
from asr.text.tokenizer import EOS, SOS

__all__ = ["Prefix", "beam_search", "beam_search_steps"]

# A live hypothesis is dropped as beaten once it is this many length bonuses below the `nbest`-th finished one. In
# streams, 8 gave the same results in 4 % more steps.
_BONUS_TOKENS = 3


class _Scored(NamedTuple):
    """The candidates of each row at a step, eos last, before the search has chosen among them."""

    decoder: DecoderState
    log_probs: Tensor  # (N, V): the decoder's
    candidates: Tensor  # (N, C)
    added: Tensor  # (N, C): to the score of the row
    by_full: Tensor  # (N, C): by the full scorers alone
    full: list[Any]  # states of the scorers after the step
    partial: list[Any]


class _Search:
    """The constant part of a search: model, encoder output, scorers and limits."""

    def __init__(
        self,
        model: Model,
        encoded: Encoded,
        config: SearchConfig,
        lm: TokenPredictor | None,
        prefix: Prefix | None,
        trace: Trace | None,
    ) -> None:
        encoder_out, lengths = encoded
        self.trace = trace
        self.prefix = prefix.widened(encoder_out.shape[1]) if prefix else None
        self.model, self.config = model, config
        self.batch, self.beam = encoder_out.shape[0], config.beam_size
        self.device = encoder_out.device
        self.memory = model.decoder.prepare(encoder_out, lengths)
        if trace:
            trace.memory = self.memory
        self.live_only = fast.enabled() and self.device.type == "cpu"

        first_frame = prefix.first_frame if prefix else torch.zeros_like(lengths)
        self.limits = token_limits(lengths - first_frame, model.config.frame_seconds, config.max_tokens_per_second)
        self.empty = lengths <= first_frame  # no frame is left after the prefix

        known = self.prefix.lm if self.prefix else None
        frames, vocabulary = encoder_out.shape[1], model.config.vocab_size
        self.hope = _BONUS_TOKENS * max(0.0, config.length_bonus)
        self.full = full_scorers(config, vocabulary, frames, self.device, lm, known)
        partial = self._partial_scorers(encoded, first_frame)
        self.partial = [(weight, scorer) for weight, scorer in partial if weight != 0]
        tokens = model.config.vocab_size - (EOS + 1)
        # A decoder of weight 0 cannot choose candidates: all tokens are.
        self.candidates = tokens if config.ctc_weight == 1 else min(max(config.candidates, self.beam), tokens)

    def _partial_scorers(self, encoded: Encoded, first_frame: Tensor) -> list[tuple[float, PartialScorer]]:
        if self.config.ctc_weight == 0:
            return []
        log_probs = self.model.ctc_log_probs(encoded.encoder_out)
        if self.prefix:  # the known words are not scored again
            log_probs = from_frame(log_probs, first_frame)
            if self.live_only:  # nor are padding frames; on a GPU, counting them would synchronise
                log_probs = log_probs[:, : max(1, int((encoded.encoder_out_lengths - first_frame).max()))]
        if self.trace:
            self.trace.ctc = log_probs
        lengths = (encoded.encoder_out_lengths - first_frame).clamp(min=1)
        return [(self.config.ctc_weight, CtcScorer(CtcPrefixes(log_probs, lengths)))]

    def start(self, longest: int) -> tuple[Beams, Finished]:
        places = self.batch * self.beam
        scores = torch.full((self.batch, self.beam), -math.inf, device=self.device)
        tokens = torch.full((places, longest), EOS, device=self.device)
        token_scores = torch.zeros(places, longest, device=self.device)
        shape = (self.batch, self.beam, longest)
        finished = Finished(scores, tokens.view(shape), token_scores.view(shape), scores[:, 0])
        scores = scores.clone()
        scores[:, 0] = 0.0  # at the start all hypotheses are the same, so only one is live
        scores[self.empty] = -math.inf

        rows = self._rows(scores)
        owners = rows // self.beam
        if self.prefix:
            last, decoder = self.prefix.last[owners], self.prefix.decoder.select(owners)
        else:
            last = torch.full_like(rows, SOS)
            decoder = self.model.decoder.initial_state(self.memory).select(owners)
        beams = Beams(
            tokens=tokens,
            token_scores=token_scores,
            scores=scores,
            repeats=Repeats.start(places, self.device),
            rows=rows,
            last=last,
            decoder=decoder,
            full=[scorer.initial_state(owners) for _, scorer in self.full],
            partial=[scorer.initial_state(owners) for _, scorer in self.partial],
            listened=Listened.start(self.memory),
        )
        if self.trace:
            self.trace.add(Passed(rows, owners, last, torch.zeros_like(scores.flatten()[rows]), decoder, beams.full))
        return beams, finished

    def _rows(self, scores: Tensor) -> Tensor:
        """Places of the grid `scores` `(B, K)` to compute: the live ones on a CPU, else all."""
        if self.live_only:
            return scores.flatten().isneginf().logical_not().nonzero().flatten()
        return torch.arange(scores.numel(), device=self.device)

    def step(self, step: int, beams: Beams, finished: Finished) -> tuple[Beams, Finished, Tensor]:
        """Extend every live hypothesis by a token; also returns `(B,)` which utterances are done."""
        listened, memory = self._memory(beams)
        scored = self._score(step, beams, memory)

        # Hypotheses that end are finished; the best of the others live on.
        totals = scored.added.new_full((self.batch * self.beam, scored.added.shape[1]), -math.inf)
        totals[beams.rows] = beams.scores.flatten()[beams.rows, None] + scored.added
        totals = totals.view(self.batch, self.beam, -1)
        finished = self._finish(step, totals, beams, finished)
        scores, choices = totals[..., :-1].flatten(1).topk(self.beam, dim=1)
        parents = torch.arange(self.batch, device=self.device)[:, None] * self.beam + choices // self.candidates
        parents, choices = parents.flatten(), (choices % self.candidates).flatten()

        # Reorder the grid by the parents of its hypotheses; any row will do for an empty place.
        row_of = torch.zeros_like(parents)
        row_of[beams.rows] = torch.arange(len(beams.rows), device=self.device)
        rows = row_of[parents]
        last = scored.candidates[rows, choices]
        repeats, looping = beams.repeats.select(parents).add(last, self.config.max_repeats)
        tokens, token_scores = beams.tokens.index_select(0, parents), beams.token_scores.index_select(0, parents)
        tokens[:, step], token_scores[:, step] = last, scored.log_probs[rows, last]
        grid = beams._replace(tokens=tokens, token_scores=token_scores, scores=scores, repeats=repeats)
        grid, finished, done = self._stop(step, grid, looping.view_as(scores), finished)

        # Reorder the states in the same way.
        live = self._rows(grid.scores)
        rows, choices = rows[live], choices[live]
        full = zip(self.full, scored.full, strict=True)
        partial = zip(self.partial, scored.partial, strict=True)
        following = grid._replace(
            rows=live,
            last=last[live],
            decoder=scored.decoder.select(rows),
            full=[scorer.select(state, rows) for (_, scorer), state in full],
            partial=[scorer.select(state, rows, choices) for (_, scorer), state in partial],
            listened=listened,
        )
        if self.trace:
            added, owners = scored.by_full[rows, choices], live // self.beam
            self.trace.add(Passed(rows, owners, following.last, added, following.decoder, following.full))
        return following, finished, done

    def _score(self, step: int, beams: Beams, memory: Memory) -> _Scored:
        """The score increment of each candidate of each row."""
        decoder, view, added, full = score_next(
            self.model.decoder, self.full, self.config.temperature, beams.last, beams.decoder, beams.full, memory
        )
        log_probs = view.log_probs
        if self.trace:
            self.trace.add_scores(NextScores(added, log_probs))
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

        partial, by_full = [], added
        for (weight, partial_scorer), state in zip(self.partial, beams.partial, strict=True):
            scores, state = partial_scorer.score(view, candidates, state)
            added = added + weight * scores
            partial.append(state)
        return _Scored(decoder, log_probs, candidates, added, by_full, full, partial)

    def _memory(self, beams: Beams) -> tuple[Listened, Memory]:
        """The encoder output that this step's hypotheses listen to."""
        if not self.live_only:
            return beams.listened, beams.listened.memory
        owners = beams.rows // self.beam
        listened = beams.listened.narrowed(owners)
        return listened, listened.memory.of(listened.slots[owners])

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
        finished = finished._replace(total=torch.maximum(finished.total, ended.amax(dim=1)))
        ended = ended / (step + 1) if self.config.length_normalisation else ended
        shape = finished.tokens.shape
        return finished.merge(ended, beams.tokens.view(shape), beams.token_scores.view(shape))

    def _stop(self, step: int, beams: Beams, looping: Tensor, finished: Finished) -> tuple[Beams, Finished, Tensor]:
        """Drop hypotheses that loop, are too long or cannot win; an utterance without a live one is done.

        With `length_normalisation` a longer hypothesis can always win, so an utterance is done once `beam_size`
        hypotheses have finished; those that reach the length limit count as finished.
        """
        too_long, per_token = step + 1 >= self.limits, self.config.length_normalisation
        scores = beams.scores.masked_fill(looping | too_long[:, None], -math.inf)
        # Where no hypothesis has ended and none lives on, keep those of this step, loops included.
        lost = finished.scores[:, 0].isneginf() & scores.isneginf().all(dim=1)
        lost = lost | too_long if per_token else lost
        shape = finished.tokens.shape
        rescued = beams.scores.masked_fill(~lost[:, None], -math.inf)
        rescued = rescued / (step + 1) if per_token else rescued
        finished = finished.merge(rescued, beams.tokens.view(shape), beams.token_scores.view(shape))
        # Drop what cannot win any more, and what is far behind.
        if per_token:
            beaten = ~finished.scores[:, -1:].isneginf()
        else:
            beaten = scores + self.hope <= finished.scores[:, self.config.nbest - 1, None]
        if self.config.beam_margin > 0:
            best = scores.amax(dim=1)
            # Scores per token only rank finished hypotheses: one far below the best total will not be better.
            best = torch.maximum(best, finished.total) if per_token else best
            beaten = beaten | (scores < best[:, None] - self.config.beam_margin)
        scores = scores.masked_fill(beaten, -math.inf)
        return beams._replace(scores=scores), finished, scores.isneginf().all(dim=1)


def beam_search(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    prefix: Prefix | None = None,
    trace: Trace | None = None,
) -> list[list[Hypothesis]]:
    """Search with every scorer that has a weight in the config.

    Args:
        model: in evaluation mode.
        encoded: of B utterances; one without frames, or without frames after its prefix, gets an empty hypothesis.
        config: beam size, weights and limits.
        lm: over the same tokens, in evaluation mode and on the same device.
        prefix: known words to start from; hypotheses then hold only the tokens after them.
        trace: an empty one, to which the search adds its states.

    Returns:
        For each utterance up to `config.nbest` hypotheses, best first. Scores are weighted sums of log-probabilities.

    Raises:
        ConfigError: the lm has a vocabulary of another size.
    """
    return finish(beam_search_steps(model, encoded, config, lm, prefix, trace))


@torch.inference_mode()
def beam_search_steps(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    prefix: Prefix | None = None,
    trace: Trace | None = None,
) -> Steps[list[list[Hypothesis]]]:
    """As `beam_search`; yields after every token."""
    if encoded.encoder_out.shape[1] == 0:
        return [[Hypothesis([], 0.0, [])] for _ in range(encoded.encoder_out.shape[0])]
    search = _Search(model, encoded, config, lm, prefix, trace)
    longest = int(search.limits.max())
    beams, finished = search.start(longest)
    for step in range(longest if len(beams.rows) else 0):
        beams, finished, done = search.step(step, beams, finished)
        if all_done(done, step):
            break
        yield
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
