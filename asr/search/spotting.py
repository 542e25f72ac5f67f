"""Where hotwords of a list can have been said: their best paths through the CTC head's output.

Most phrases of a list are not in an utterance. So each is first looked for in the CTC head's output: the best path that
spells it, from any frame to any other, beside the best path of all through the same frames. Only the phrases whose path
is likely enough are followed up. After Andrusenko et al. 2024, "Fast Context-Biasing for CTC and Transducer ASR models
with CTC-based Word Spotter".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.errors import ConfigError
from asr.text.tokenizer import BLANK, EOS, Tokenizer
from asr.writing.hotwords import Hotwords, Phrase

__all__ = ["Spelling", "Spot", "Spotter", "check_spelling", "places", "relative", "spell"]

_LOG_ZERO = -1e10
_FRAMES_A_SPOT = 6  # at most one spot for so many frames: bounds the time that they take
_PLACES = 3  # of a phrase in an utterance
_PHRASE_LETTERS = 8  # a phrase is worth as much as so many letters more, because short ones are as improbable as long
_KNOWN_TOKENS = 200  # before the search that can belong to a phrase: more than those of the longest
_MAX_CELLS = 1 << 22  # paths followed at a time: states times utterances


class Spelling(NamedTuple):
    """A way to say a phrase, or the rest of one."""

    said: str
    tokens: tuple[int, ...]
    worth: float  # what a hypothesis gains by it, by its length and the weight of its phrase
    continues: bool = False  # it goes on from the words before the search


class Spot(NamedTuple):
    """A place where a spelling can have been said."""

    spelling: Spelling
    first_frame: int
    after_last: int


class _Paths:
    """A trie of tokens, as lists with an entry for each state; state 0 is the start."""

    def __init__(self) -> None:
        self.tokens, self.parents = [BLANK], [0]
        self._children: dict[tuple[int, int], int] = {}

    def add(self, tokens: Sequence[int]) -> int:
        """The state at the end of a spelling."""
        state = 0
        for token in tokens:
            after = self._children.setdefault((state, token), len(self.tokens))
            if after == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(state)
            state = after
        return state


@dataclass(frozen=True, eq=False)
class Spotter:
    """A list of hotwords, and the ways to spell them in tokens as a trie; state 0 is its root."""

    tokenizer: Tokenizer
    spellings: Mapping[str, Spelling]  # of all phrases, by what is said
    rests: Mapping[str, Sequence[Spelling]]  # of what is left of phrases after their first words
    tokens: Tensor  # (S,): of each state
    parents: Tensor  # (S,): the state before it
    repeats: Tensor  # states with the token of the one before them
    ends: Tensor  # (spellings,): their last states
    words: int  # of the longest phrase

    @classmethod
    def build(cls, hotwords: Hotwords, tokenizer: Tokenizer) -> Spotter:
        """Spell hotwords in the tokens of a model.

        Raises:
            ConfigError: a phrase has characters that the model cannot spell.
        """
        spellings: dict[str, Spelling] = {}
        rests: dict[str, list[Spelling]] = defaultdict(list)
        for phrase in hotwords.phrases:
            check_spelling(phrase, tokenizer)
            for said in phrase.spoken:
                one = _spelling(said, phrase.weight, tokenizer)
                if said not in spellings or spellings[said].worth < one.worth:
                    spellings[said] = one
                words = said.split()
                for count in range(1, len(words)):
                    rest = _spelling(" ".join(words[count:]), phrase.weight, tokenizer)
                    rests[" ".join(words[:count])].append(rest._replace(continues=True))

        paths = _Paths()
        ends = [paths.add(one.tokens) for one in spellings.values()]
        pairs = enumerate(zip(paths.tokens, paths.parents, strict=True))
        return cls(
            tokenizer,
            spellings,
            rests,
            tokens=torch.tensor(paths.tokens),
            parents=torch.tensor(paths.parents),
            repeats=torch.tensor([s for s, (token, parent) in pairs if s and token == paths.tokens[parent]]).long(),
            ends=torch.tensor(ends),
            words=max(said.count(" ") + 1 for said in spellings),
        )

    def begun(self, known: Sequence[int]) -> list[Spelling]:
        """What is left of the phrases that begin with the last words of the known tokens."""
        words = self.tokenizer.decode(known[-_KNOWN_TOKENS:]).split() if self.words > 1 else []
        latest = (" ".join(words[-count:]) for count in range(1, min(self.words, len(words) + 1)))
        return [rest for text in latest for rest in self.rests.get(text, ())]

    def score(self, log_probs: Tensor) -> Tensor:
        """How likely each spelling was said: log-probability, 0 for one on the best path of all.

        Args:
            log_probs: `(B, T, V)` of the CTC head; padding is blank with probability one.

        Returns:
            `(B, spellings)`, 0 or less.
        """
        rows = max(1, _MAX_CELLS // len(self.tokens))
        return torch.cat([self._score(some) for some in log_probs.split(rows)])

    def _score(self, log_probs: Tensor) -> Tensor:
        frames = relative(log_probs).permute(1, 2, 0).contiguous()  # (T, V, B)
        tokens, parents, repeats = (x.to(frames.device) for x in (self.tokens, self.parents, self.repeats))

        # Best paths that end in each state: with its token, with a blank after it, with either.
        ended = frames.new_full((len(tokens), frames.shape[2]), _LOG_ZERO)
        blank, either, best = ended.clone(), ended.clone(), ended
        either[0] = 0.0  # a phrase may begin anywhere
        for frame in frames:
            entry = either[parents]
            entry[repeats] = blank[parents[repeats]]  # a repeated token is a new one only after a blank
            ended = torch.maximum(ended, entry) + frame[tokens]
            blank = either + frame[BLANK]
            either = torch.maximum(ended, blank)
            either[0] = 0.0
            best = torch.maximum(best, ended)
        return best[self.ends.to(frames.device)].T

    def spots(
        self, log_probs: Tensor, lengths: Sequence[int], known: Sequence[Sequence[int]], weight: float, margin: float
    ) -> list[list[Spot]]:
        """The likeliest places of phrases in each utterance.

        Args:
            log_probs: as in `score`.
            lengths: of each utterance.
            known: tokens of each utterance before the first frame; empty: there are none.
            weight: of what phrases are worth.
            margin: a place whose log-probability is this many times its phrase's worth below 0 is none.
        """
        every = list(self.spellings.values())
        worth = weight * margin * torch.tensor([one.worth for one in every])
        candidates: list[tuple[int, Spelling]] = []
        for row, scores in enumerate((self.score(log_probs).cpu() + worth).tolist()):
            likely = sorted((-score, i) for i, score in enumerate(scores) if score > 0)
            candidates += [(row, every[i]) for _, i in likely[: _most(lengths[row])]]
            candidates += [(row, rest) for rest in self.begun(known[row])] if known else []
        found: list[list[tuple[float, Spot]]] = [[] for _ in log_probs]
        placed = places(relative(log_probs).cpu(), candidates) if candidates else []
        for (row, one), some in zip(candidates, placed, strict=True):
            least = -weight * margin * one.worth
            found[row] += [(least - score, Spot(one, *frames)) for score, *frames in some if score > least]
        best = (sorted(some, key=lambda pair: pair[0]) for some in found)
        return [[spot for _, spot in some[: _most(length)]] for some, length in zip(best, lengths, strict=True)]


def _most(frames: int) -> int:
    return math.ceil(frames / _FRAMES_A_SPOT)


def relative(log_probs: Tensor) -> Tensor:
    """Beside the likeliest token of each frame."""
    return log_probs - log_probs.amax(-1, keepdim=True)


def places(frames: Tensor, candidates: Sequence[tuple[int, Spelling]]) -> list[list[tuple[float, int, int]]]:
    """The best places of spellings that do not overlap: log-probability, first frame, frame after the last.

    Args:
        frames: `(B, T, V)`, relative to the likeliest token of each frame.
        candidates: rows of these, and what to look for.
    """
    rows = torch.tensor([row for row, _ in candidates])
    tokens = pad_sequence([torch.tensor(one.tokens) for _, one in candidates], batch_first=True)  # (N, L)
    last = torch.tensor([len(one.tokens) - 1 for _, one in candidates])[:, None]
    repeat = torch.zeros_like(tokens, dtype=torch.float32)
    repeat[:, 1:][tokens[:, 1:] == tokens[:, :-1]] = _LOG_ZERO

    # As in `Spotter.score`, for each token of each spelling, with the frame in which the path began.
    ended = torch.full(tokens.shape, _LOG_ZERO)
    blank, began, blank_began = ended.clone(), torch.zeros_like(tokens), torch.zeros_like(tokens)
    fresh, nothing = torch.zeros(len(rows), 1), torch.full((len(rows), 1), _LOG_ZERO)
    scores, starts = [], []
    for t in range(frames.shape[1]):
        frame = frames[rows, t]
        now = torch.full((len(rows), 1), t)
        ways = torch.stack(
            [ended, torch.cat([fresh, ended[:, :-1] + repeat[:, 1:]], 1), torch.cat([nothing, blank[:, :-1]], 1)]
        )
        origins = torch.stack([began, torch.cat([now, began[:, :-1]], 1), torch.cat([now, blank_began[:, :-1]], 1)])
        later = ended > blank
        blank, blank_began = torch.maximum(ended, blank) + frame[:, :1], torch.where(later, began, blank_began)
        best, way = ways.max(0)
        ended, began = best + frame.gather(1, tokens), origins.gather(0, way[None])[0]
        scores.append(ended.gather(1, last)[:, 0])
        starts.append(began.gather(1, last)[:, 0])

    # The best end, then the best of those whose paths do not overlap with it, and so on.
    left, first, at = torch.stack(scores), torch.stack(starts), torch.arange(len(scores))[:, None]
    found: list[list[tuple[float, int, int]]] = [[] for _ in candidates]
    for _ in range(_PLACES):
        score, end = left.max(0)
        start = first.gather(0, end[None])[0]
        for some, *place in zip(found, score.tolist(), start.tolist(), (end + 1).tolist(), strict=True):
            some.append((place[0], int(place[1]), int(place[2])))
        left = left.masked_fill((first <= end) & (at >= start), _LOG_ZERO)
    return found


def check_spelling(phrase: Phrase, tokenizer: Tokenizer) -> None:
    """Refuse a phrase that the tokens of a model cannot spell.

    Raises:
        ConfigError: names the phrase and the characters.
    """
    known = _alphabet(tokenizer)
    for said in phrase.spoken:
        if unknown := sorted(set(said) - known - {" "}):
            raise ConfigError(f"hotword {phrase.text!r}: the model cannot spell {', '.join(map(repr, unknown))}")


def _spelling(said: str, weight: float, tokenizer: Tokenizer) -> Spelling:
    letters = len(said) - said.count(" ")
    return Spelling(said, tuple(tokenizer.encode(said)), weight * (letters + _PHRASE_LETTERS))


@lru_cache(maxsize=8)
def _alphabet(tokenizer: Tokenizer) -> frozenset[str]:
    return frozenset(character for token in range(EOS + 1, len(tokenizer)) for character in tokenizer.piece(token))


@lru_cache(maxsize=8)
def spell(hotwords: Hotwords, tokenizer: Tokenizer) -> Spotter:
    """`Spotter.build`; the latest lists are kept for the next call."""
    return Spotter.build(hotwords, tokenizer)
