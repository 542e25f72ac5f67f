"""Which hotwords of a list can have been said: their best paths through the CTC head's output.

Most phrases of a list are not in an utterance, and a bonus for them only makes false alarms. So each phrase is first
looked for in the CTC head's output: the best path that spells it, from any frame to any other, beside the best path of
all through the same frames. The beam search gives a bonus only where the two are about as likely, and a larger one,
the closer they are. Filters of this kind: Yang et al. 2023, "Two Stage Contextual Word Filtering for Context Bias in
Unified Streaming and Non-streaming Transducer".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from asr.config import SearchConfig, require
from asr.model.las import Encoded, Model
from asr.search.ctc import blank_padding, from_frame
from asr.search.hotwords import Automaton, check_spelling
from asr.text.tokenizer import BLANK, WORD_START, Tokenizer
from asr.writing.hotwords import Hotwords

__all__ = ["Spotter", "narrow", "spell"]

_LOG_ZERO = -1e10
_LEAST_SHARE = 1 / 3  # of its weight that a phrase gets
_MOST_PHRASES = 32  # of an utterance: bounds the time that their automaton takes
_KNOWN_TOKENS = 200  # before the search that can belong to a phrase: more than those of the longest
_MAX_CELLS = 1 << 22  # paths followed at a time: states times utterances


class _Paths:
    """A trie of tokens, as lists with an entry for each state; state 0 is the start."""

    def __init__(self) -> None:
        self.tokens, self.parents, self.letters = [BLANK], [0], [0]
        self._children: dict[tuple[int, int], int] = {}

    def find(self, tokens: Sequence[int]) -> int:
        """The state after tokens; the start if no spelling begins so."""
        state = 0
        for token in tokens:
            state = self._children.get((state, token), -1)
        return max(state, 0)

    def add(self, tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
        """The states of a spelling."""
        path, state = [], 0
        for token in tokens:
            after = self._children.setdefault((state, token), len(self.tokens))
            if after == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(state)
                self.letters.append(self.letters[state] + len(tokenizer.piece(token).strip(WORD_START)))
            state = after
            path.append(state)
        return path


@dataclass(frozen=True, eq=False)
class Spotter:
    """A list of hotwords, and the ways to spell them in tokens as a trie; state 0 is its root."""

    hotwords: Hotwords
    tokenizer: Tokenizer
    paths: _Paths
    tokens: Tensor  # (S,): of each state
    parents: Tensor  # (S,): the state before it
    repeats: Tensor  # states with the token of the one before them
    ends: Tensor  # (P', 3): end of a spelling, its phrase, its letters
    inside: Tensor  # (P'', 3): the same for places within a phrase from the end of its first word on
    weights: Tensor  # (phrases,)
    words: int  # of the longest phrase

    @classmethod
    def build(cls, hotwords: Hotwords, tokenizer: Tokenizer) -> Spotter:
        """Spell hotwords in the tokens of a model.

        Raises:
            ConfigError: a phrase has characters that the model cannot spell.
        """
        paths, ends, inside = _Paths(), [], []
        for number, phrase in enumerate(hotwords.phrases):
            check_spelling(phrase, tokenizer)
            for said in phrase.spoken:
                path = paths.add(tokenizer.encode(said), tokenizer)
                first = paths.add(tokenizer.encode(said.partition(" ")[0]), tokenizer)
                ends.append((path[-1], number, paths.letters[path[-1]]))
                inside += [(state, number, paths.letters[state]) for state in path[len(first) - 1 : -1]]
        pairs = enumerate(zip(paths.tokens, paths.parents, strict=True))
        return cls(
            hotwords,
            tokenizer,
            paths,
            tokens=torch.tensor(paths.tokens),
            parents=torch.tensor(paths.parents),
            repeats=torch.tensor([s for s, (token, parent) in pairs if s and token == paths.tokens[parent]]).long(),
            ends=torch.tensor(ends),
            inside=torch.tensor(inside).long().view(-1, 3),
            weights=torch.tensor([phrase.weight for phrase in hotwords.phrases]),
            words=hotwords.lookahead_words,
        )

    def begun(self, known: Sequence[int]) -> list[int]:
        """The states after the last words of the known tokens, for the phrases that begin with these."""
        words = self.tokenizer.decode(known[-_KNOWN_TOKENS:]).split() if self.words > 1 else []
        latest = (" ".join(words[-count:]) for count in range(1, min(self.words, len(words) + 1)))
        return [state for text in latest if (state := self.paths.find(self.tokenizer.encode(text)))]

    def score(self, log_probs: Tensor, begun: Sequence[Sequence[int]] = ()) -> Tensor:
        """How likely each phrase was said: log-probability for each letter, 0 for a phrase on the best path of all.

        A phrase that the audio breaks off in counts by what was said of it, once its first word was.

        Args:
            log_probs: `(B, T, V)` of the CTC head; padding is blank with probability one.
            begun: for each of the B, states that were reached before the first frame; empty: none were.

        Returns:
            `(B, phrases)`, 0 or less.
        """
        rows = max(1, _MAX_CELLS // len(self.tokens))
        parts = log_probs.split(rows)
        return torch.cat([self._score(some, begun[i * rows : (i + 1) * rows]) for i, some in enumerate(parts)])

    def _score(self, log_probs: Tensor, begun: Sequence[Sequence[int]]) -> Tensor:
        relative = log_probs - log_probs.amax(-1, keepdim=True)
        frames = relative.permute(1, 2, 0).contiguous()  # (T, V, B)
        tokens, parents, repeats = (x.to(frames.device) for x in (self.tokens, self.parents, self.repeats))

        # Best paths that end in each state: with its token, with a blank after it, with either.
        ended = frames.new_full((len(tokens), frames.shape[2]), _LOG_ZERO)
        blank, either, best = ended.clone(), ended.clone(), ended
        for row, states in enumerate(begun):
            blank[states, row] = either[states, row] = 0.0
        either[0] = 0.0  # a phrase may begin anywhere
        for frame in frames:
            entry = either[parents]
            entry[repeats] = blank[parents[repeats]]  # a repeated token is a new one only after a blank
            ended = torch.maximum(ended, entry) + frame[tokens]
            blank = either + frame[BLANK]
            either = torch.maximum(ended, blank)
            either[0] = 0.0
            best = torch.maximum(best, ended)

        scores = frames.new_full((len(self.hotwords.phrases), frames.shape[2]), _LOG_ZERO)
        for paths, table in ((best, self.ends), (either, self.inside)):
            state, phrase, letters = table.to(frames.device).unbind(1)
            places = phrase[:, None].expand(-1, frames.shape[2])
            scores = scores.scatter_reduce(0, places, paths[state] / letters.clamp(min=1)[:, None], "amax")
        return scores.T

    def automaton(self, scores: Tensor, margin: float) -> Automaton | None:
        """The phrases that can have been said, each with the share of its weight that it earns by its score.

        The share is 1 for a score of 0, falls to a third for one of minus `margin` times the weight, and is 0 below. It
        is rounded to eighths, so that the search of a stream, which runs again with every chunk, mostly finds the
        automaton of the last time. Only the likeliest phrases are taken.

        Args:
            scores: `(phrases,)` of one utterance.
            margin: above 0.

        Returns:
            None where no phrase can have been said.
        """
        phrases, doubts = self.hotwords.phrases, -scores / (margin * self.weights)
        shares = ((1 - (1 - _LEAST_SHARE) * doubts) * 8).round() / 8
        likeliest = doubts.argsort(stable=True)[:_MOST_PHRASES]
        kept = sorted(likeliest[doubts[likeliest] <= 1].tolist())
        heard = tuple(replace(phrases[i], weight=phrases[i].weight * float(shares[i])) for i in kept)
        return _automaton(Hotwords(heard), self.tokenizer) if heard else None


@lru_cache(maxsize=8)
def spell(hotwords: Hotwords, tokenizer: Tokenizer) -> Spotter:
    """`Spotter.build`; the latest lists are kept for the next call."""
    return Spotter.build(hotwords, tokenizer)


@lru_cache(maxsize=256)
def _automaton(hotwords: Hotwords, tokenizer: Tokenizer) -> Automaton:
    return Automaton.build(hotwords, tokenizer)


@torch.inference_mode()
def narrow(
    model: Model,
    encoded: Encoded,
    lists: Sequence[Spotter | None],
    config: SearchConfig,
    first_frame: Tensor | None = None,
    known: Sequence[Sequence[int]] = (),
) -> list[Automaton | None]:
    """For each utterance, the automaton of those phrases of its list that can have been said.

    Args:
        model: in evaluation mode.
        encoded: of B utterances.
        lists: of each utterance, None where it has none; empty: none has any.
        config: weights; `hotword_margin` says how unlikely a phrase may be.
        first_frame: `(B,)`, first frame after the known words of each; None: they have none.
        known: tokens of these words.

    Raises:
        ConfigError: greedy search is given hotwords.
    """
    automata: list[Automaton | None] = [None] * len(lists)
    if not any(lists) or config.hotword_weight == 0:
        return automata
    require(config.beam_size > 1, "search.beam_size", 1, "at least 2 with hotwords")
    log_probs, lengths = model.ctc_log_probs(encoded.encoder_out), encoded.encoder_out_lengths
    if first_frame is not None:
        log_probs, lengths = from_frame(log_probs, first_frame), (lengths - first_frame).clamp(min=0)
    for spotter in dict.fromkeys(one for one in lists if one is not None):
        rows = [row for row, one in enumerate(lists) if one is spotter]
        longest = int(lengths[rows].max())
        padded = blank_padding(log_probs[rows, :longest].float(), lengths[rows])
        begun = [spotter.begun(known[row]) for row in rows] if known else []
        for row, scores in zip(rows, spotter.score(padded, begun).cpu(), strict=True):
            automata[row] = spotter.automaton(scores, config.hotword_margin)
    return automata
