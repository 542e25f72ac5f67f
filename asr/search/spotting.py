"""Spotting of hotwords: places where the CTC head's output may hold a phrase of a list.

Most phrases of a list are not in an utterance. So each is first looked for in the CTC head's output: the best path that
spells it, between any two frames, is compared with the best path overall through the same frames. Only phrases with a
likely path are scored further, and an unlikely one is dropped as early as possible. After Andrusenko et al. 2024, "Fast
Context-Biasing for CTC and Transducer ASR models with CTC-based Word Spotter".
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from asr.errors import ConfigError
from asr.text.tokenizer import BLANK, EOS, Tokenizer
from asr.writing.hotwords import Hotwords, Phrase

__all__ = [
    "Paths",
    "Spelling",
    "Spot",
    "Spotter",
    "Table",
    "best_paths",
    "check_spelling",
    "places",
    "relative",
    "spell",
]

_LOG = logging.getLogger(__name__)

_LOG_ZERO = -1e10
_FRAMES_A_SPOT = 4  # at most one spot for so many frames: bounds the time that they take
_PLACES = 3  # of a phrase in an utterance
_PHRASE_LETTERS = 8  # a phrase is worth as much as so many letters more, because short ones are as improbable as long
_KNOWN_TOKENS = 200  # before the search that can belong to a phrase: more than those of the longest
_MAX_CELLS = 1 << 18  # paths followed at a time: spellings times frames


class Spelling(NamedTuple):
    """A way to say a phrase, or the rest of one."""

    said: str
    tokens: tuple[int, ...]
    worth: float  # gain of a hypothesis that holds it, by its length and the weight of its phrase
    continues: bool = False  # begins in the words before the search


class Spot(NamedTuple):
    """A place where a spelling may have been said."""

    spelling: Spelling
    first_frame: int
    after_last: int


class Table(NamedTuple):
    """Spellings as tensors."""

    spellings: Sequence[Spelling]
    tokens: Tensor  # (N, L), padded
    lengths: Tensor  # (N,)
    worths: Tensor  # (N,)

    @classmethod
    def of(cls, spellings: Sequence[Spelling]) -> Table:
        """At least one spelling."""
        tokens = pad_sequence([torch.tensor(one.tokens) for one in spellings], batch_first=True)
        lengths, worths = zip(*((len(one.tokens), one.worth) for one in spellings), strict=True)
        return cls(spellings, tokens, torch.tensor(lengths), torch.tensor(worths, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Spotter:
    """A list of hotwords, and the ways to spell them in tokens."""

    tokenizer: Tokenizer
    spellings: Mapping[str, Spelling]  # of all phrases, by what is said
    rests: Mapping[str, Sequence[Spelling]]  # of what is left of phrases after their first words
    table: Table  # of all phrases
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
                if len(one.tokens) == 1 < len(said):
                    _warn_of_common(said)
                if said not in spellings or spellings[said].worth < one.worth:
                    spellings[said] = one
                words = said.split()
                for count in range(1, len(words)):
                    rest = _spelling(" ".join(words[count:]), phrase.weight, tokenizer)
                    rests[" ".join(words[:count])].append(rest._replace(continues=True))

        longest = max(said.count(" ") + 1 for said in spellings)
        return cls(tokenizer, spellings, rests, Table.of(list(spellings.values())), longest)

    def begun(self, known: Sequence[int]) -> list[Spelling]:
        """The rest of each phrase that begins with the last words of the known tokens."""
        words = self.tokenizer.decode(known[-_KNOWN_TOKENS:]).split() if self.words > 1 else []
        latest = (" ".join(words[-count:]) for count in range(1, min(self.words, len(words) + 1)))
        return [rest for text in latest for rest in self.rests.get(text, ())]

    def spots(self, log_probs: Tensor, known: Sequence[int], weight: float, margin: float) -> list[Spot]:
        """The likeliest places of phrases in an utterance.

        Args:
            log_probs: `(T, V)` of the CTC head.
            known: tokens before the first frame.
            weight: of what phrases are worth.
            margin: lowest log-probability of a place, as a multiple of its phrase's worth below 0.
        """
        if not len(log_probs):
            return []
        frames, rests = relative(log_probs).cpu(), self.begun(known)
        found = _spots(frames, self.table, weight * margin)
        if rests:
            found += _spots(frames, Table.of(rests), weight * margin)
        return [spot for _, spot in sorted(found, key=lambda pair: -pair[0])[: _most(len(log_probs))]]


def _spots(frames: Tensor, table: Table, scale: float) -> list[tuple[float, Spot]]:
    """The places of the likeliest spellings, each with its distance above the lowest score."""
    which, paths = best_paths(frames, table, scale)
    least = -scale * table.worths[which]
    likeliest = (paths.scores.amax(1) - least).argsort(descending=True, stable=True)[: _most(len(frames))]
    which, paths, least = which[likeliest], paths.select(likeliest), least[likeliest]
    rows = zip(which.tolist(), least.tolist(), places(paths), strict=True)
    return [
        (score - low, Spot(table.spellings[i], *span)) for i, low, some in rows for score, *span in some if score > low
    ]


def _most(frames: int) -> int:
    return math.ceil(frames / _FRAMES_A_SPOT)


def relative(log_probs: Tensor) -> Tensor:
    """Log-probabilities relative to the likeliest token of each frame."""
    return log_probs - log_probs.amax(-1, keepdim=True)


class Paths(NamedTuple):
    """For N spellings, or beginnings of them, the best path that ends in each of T frames."""

    scores: Tensor  # (N, T)
    starts: Tensor  # (N, T): their first frames

    def select(self, rows: Tensor) -> Paths:
        return Paths(self.scores[rows], self.starts[rows])

    def later(self) -> Paths:
        """These, shifted to the next frame."""
        scores, starts = (x[:, :-1] for x in self)
        return Paths(pad(scores, (1, 0), value=_LOG_ZERO), pad(starts, (1, 0)))

    def extended(self, sums: Tensor) -> Paths:
        """These, which end before a frame, with a token in that frame and any number of frames after it.

        The recursion over frames is a cumulative maximum. `sums` `(N or 1, T + 1)`: of the token's log-probabilities
        before each frame.
        """
        best, entry = (self.scores - sums[:, :-1]).cummax(-1)
        return Paths(best + sums[:, 1:], self.starts.expand_as(entry).gather(-1, entry))


def best_paths(frames: Tensor, table: Table, scale: float) -> tuple[Tensor, Paths]:
    """The best paths of the spellings that can be followed up.

    Args:
        frames: `(T, V)`, relative to the likeliest token of each frame; at least one.
        table: N spellings.
        scale: the least score of a path is so many times what its spelling is worth below 0.

    Returns:
        Ascending rows `(N',)` of the table, and their paths.
    """
    # No path is better than the best frames of its tokens.
    inside = torch.arange(table.tokens.shape[1]) < table.lengths[:, None]
    best = frames.amax(0)[table.tokens] * inside
    hope = pad(best.flip(1).cumsum(1).flip(1), (0, 1)) + scale * table.worths[:, None]  # from each token on
    hopeful = (hope[:, 0] > 0).nonzero()[:, 0]

    # Only the tokens of the spellings that are left, numbered anew, the blank first.
    used, numbers = pad(table.tokens[hopeful], (1, 0), value=BLANK).unique(return_inverse=True)
    sums, found = pad(frames[:, used].T.double().cumsum(1), (1, 0)), []
    size = max(1, _MAX_CELLS // len(frames))
    for rows, tokens in zip(hopeful.split(size), numbers[:, 1:].split(size), strict=True):
        found += _followed(sums, rows, tokens, table.lengths[rows], hope[rows])
    if not found:
        return hopeful[:0], Paths(sums[:0, 1:], sums[:0, 1:].long())
    rows = torch.cat([some for some, _ in found])
    scores, starts = (torch.cat(parts) for parts in zip(*(paths for _, paths in found), strict=True))
    order = rows.argsort()
    return rows[order], Paths(scores, starts).select(order)


def _followed(sums: Tensor, rows: Tensor, tokens: Tensor, lengths: Tensor, hope: Tensor) -> list[tuple[Tensor, Paths]]:
    """Paths of spellings, those with as many tokens together.

    A spelling is given up where its path so far, with the `hope` `(N, L + 1)` for the tokens that follow, is too low.
    `sums` `(U, T + 1)`: of the log-probabilities before each frame, of the blank and the tokens used.
    """
    found = []
    fresh = torch.zeros(1, sums.shape[1] - 1, dtype=sums.dtype)  # a path begins anywhere
    firsts, which = tokens[:, 0].unique(return_inverse=True)
    ended = Paths(fresh.expand(len(firsts), -1), torch.arange(fresh.shape[1])[None]).extended(sums[firsts])
    for u in range(1, tokens.shape[1] + 1):
        if len(done := (lengths == u).nonzero()[:, 0]):
            found.append((rows[done], ended.select(which[done])))
        going = (lengths > u).nonzero()[:, 0]
        if not len(going):
            break
        rows, tokens, lengths, hope, which = (x[going] for x in (rows, tokens, lengths, hope, which))

        # The next token follows the one before it, or a blank; a repeated one is a new one only after a blank.
        blank, ended = ended.later().extended(sums[:1]).later(), ended.later()
        direct = (ended.scores >= blank.scores)[which] & (tokens[:, u] != tokens[:, u - 1])[:, None]
        entries = (torch.where(direct, x[which], y[which]) for x, y in zip(ended, blank, strict=True))
        ended = Paths(*entries).extended(sums[tokens[:, u]])
        kept = (ended.scores.amax(1) + hope[:, u + 1] > 0).nonzero()[:, 0]
        ended, which = ended.select(kept), torch.arange(len(kept))
        rows, tokens, lengths, hope = (x[kept] for x in (rows, tokens, lengths, hope))
    return found


def places(paths: Paths) -> list[list[tuple[float, int, int]]]:
    """The best places of spellings that do not overlap: log-probability, first frame, frame after the last."""
    left, at = paths.scores, torch.arange(paths.scores.shape[1])
    found: list[list[tuple[float, int, int]]] = [[] for _ in left]
    for _ in range(_PLACES):
        score, end = left.max(1, keepdim=True)
        start = paths.starts.gather(1, end)
        for some, *place in zip(
            found, score[:, 0].tolist(), start[:, 0].tolist(), (end[:, 0] + 1).tolist(), strict=True
        ):
            some.append((place[0], int(place[1]), int(place[2])))
        left = left.masked_fill((paths.starts <= end) & (at >= start), _LOG_ZERO)
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


@cache  # once for each word: there are no more than tokens
def _warn_of_common(said: str) -> None:
    """Words that are one token are the most frequent of the training text, and parts of others."""
    _LOG.warning("hotword %r: so common a word is recognised without a list, and may now replace others", said)


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
