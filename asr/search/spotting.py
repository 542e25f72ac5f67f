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

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
_UNIT = 1 << 16  # integer score units per nat
_FRAME_BITS = 16  # for frame numbers
_LOWEST = -(1 << 61)
_FRAMES_A_SPOT = 4  # frames per spot, on average at least: bounds the time for scoring spots
_PLACES = 3  # maximum for a phrase in an utterance
_PHRASE_LETTERS = 8  # added to the length of each phrase, because short ones are as improbable as long ones
_KNOWN_TOKENS = 200  # before the search, in which a phrase may begin: more than the longest phrase has
_MAX_CELLS = 1 << 16  # paths followed at a time, spellings times frames, so that they fit into the cache

_Floats = NDArray[np.float64]
_Frames = NDArray[np.float32]
_Ints = NDArray[np.int64]


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
    """Spellings as arrays."""

    spellings: Sequence[Spelling]
    tokens: _Ints  # (N, L), padded with -1
    lengths: _Ints  # (N,)
    worths: _Floats  # (N,)

    @classmethod
    def of(cls, spellings: Sequence[Spelling]) -> Table:
        """Arrays of at least one spelling."""
        lengths = [len(one.tokens) for one in spellings]
        padded = [[*one.tokens, *[-1] * (max(lengths) - len(one.tokens))] for one in spellings]
        return cls(spellings, np.array(padded), np.array(lengths), np.array([one.worth for one in spellings]))


@dataclass(frozen=True, eq=False)
class Spotter:
    """A list of hotwords, and the ways to spell them in tokens."""

    tokenizer: Tokenizer
    spellings: Mapping[str, Spelling]  # of all phrases, by what is said
    rests: Mapping[str, Sequence[Spelling]]  # of the rest of phrases, by their first words
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
            weight: factor of the worth of phrases.
            margin: how far a place may score below the best path, per unit of its phrase's weighted worth.
        """
        if not len(log_probs):
            return []
        frames, rests = relative(log_probs), self.begun(known)
        found = _spots(frames, self.table, weight * margin)
        if rests:
            found += _spots(frames, Table.of(rests), weight * margin)
        return [spot for _, spot in sorted(found, key=lambda pair: -pair[0])[: _most(len(log_probs))]]


def _spots(frames: _Frames, table: Table, scale: float) -> list[tuple[float, Spot]]:
    """The places of the likeliest spellings, each with its distance above the lowest score."""
    which, paths = best_paths(frames, table, scale)
    if not len(which):
        return []
    least = -scale * table.worths[which]
    likeliest = np.argsort(least - paths.best, kind="stable")[: _most(len(frames))]
    rows = zip(which[likeliest].tolist(), least[likeliest].tolist(), places(paths.select(likeliest)), strict=True)
    return [
        (score - low, Spot(table.spellings[i], *span)) for i, low, some in rows for score, *span in some if score > low
    ]


def _most(frames: int) -> int:
    return math.ceil(frames / _FRAMES_A_SPOT)


def relative(log_probs: Tensor) -> _Frames:
    """Log-probabilities `(T, V)` relative to the likeliest token of each frame, on the CPU."""
    found: _Frames = (log_probs - log_probs.amax(-1, keepdim=True)).float().cpu().numpy()
    return found


class Paths(NamedTuple):
    """For N spellings, or beginnings of them, the best path that ends in each of T frames.

    A path is one integer: its first frame in the lowest `_FRAME_BITS`, above them its score in units of
    1 / `_UNIT`. The best of several paths is thus their maximum.
    """

    keys: _Ints  # (T, N)

    @property
    def scores(self) -> _Floats:
        """`(T, N)`."""
        return _scores(self.keys)

    @property
    def best(self) -> _Floats:
        """`(N,)`: highest scores."""
        return _scores(self.keys.max(0))

    @property
    def starts(self) -> _Ints:
        """`(T, N)`: first frames."""
        return self.keys & ((1 << _FRAME_BITS) - 1)

    def select(self, rows: _Ints) -> Paths:
        return Paths(self.keys[:, rows])


def _scores(keys: _Ints) -> _Floats:
    found: _Floats = (keys >> _FRAME_BITS) / _UNIT
    return found


def best_paths(frames: _Frames, table: Table, scale: float) -> tuple[_Ints, Paths]:
    """The best paths of the spellings that score above the least score.

    Args:
        frames: `(T, V)`, relative to the likeliest token of each frame; at least one.
        table: N spellings.
        scale: the least score of a spelling is minus `scale` times its worth.

    Returns:
        Ascending rows `(N',)` of the table, and their paths.
    """
    # No path is better than the best frames of its tokens.
    best, least = np.append(frames.max(0), 0.0)[table.tokens], -scale * table.worths  # nothing for padding
    hopeful = np.flatnonzero(best.sum(1) > least)
    if not len(hopeful):
        return hopeful, Paths(np.zeros((len(frames), 0), np.int64))
    hope = np.zeros((len(hopeful), best.shape[1] + 1))  # best score from each token on, above the least
    np.cumsum(best[hopeful, ::-1], axis=1, out=hope[:, -2::-1])
    hope -= least[hopeful, None]

    # Sums for the tokens of hopeful spellings alone, renumbered as columns; the last column is the blank's.
    tokens = table.tokens[hopeful]
    left, columns = np.unique(tokens, return_inverse=True)
    columns = columns.reshape(tokens.shape)  # numpy 1 flattens it
    sums = np.zeros((len(frames) + 1, len(left) + 1), np.int64)
    whole = np.rint(frames[:, np.append(left, BLANK)].astype(np.float64) * _UNIT).astype(np.int64)
    np.cumsum(whole << _FRAME_BITS, axis=0, out=sums[1:])
    blank = sums[:, -1].copy()
    beside = np.subtract(sums, blank[:, None], out=sums)
    found, size = [], max(1, _MAX_CELLS // len(frames))
    for first in range(0, len(hopeful), size):
        part = slice(first, first + size)
        rows = hopeful[part]
        found += _followed(beside, blank, rows, columns[part], table.lengths[rows], hope[part])
    rows, keys = np.concatenate([some for some, _ in found]), np.concatenate([paths for _, paths in found], axis=1)
    order = rows.argsort()
    return rows[order], Paths(keys[:, order])


def _followed(
    beside: _Ints, blank: _Ints, rows: _Ints, tokens: _Ints, lengths: _Ints, hope: _Floats
) -> list[tuple[_Ints, _Ints]]:
    """The rows and paths of spellings, grouped by number of tokens.

    A spelling is given up where its path so far, with the `hope` `(N, L + 1)` for the tokens that follow, is too low.

    Args:
        beside: `(T + 1, columns)`: score of each token minus that of the blank, summed over all earlier frames.
        blank: `(T + 1,)`: score of the blank, summed in the same way.
    """
    # Scores are relative to a path of blanks through all frames. Blanks after a token then add nothing, and the
    # recursion over frames is a cumulative maximum.
    found, frames = [], len(blank) - 1
    entry = (np.arange(frames) - blank[:-1])[:, None]  # a path begins anywhere
    read, which = np.unique(tokens[:, 0], return_inverse=True)
    for u in range(1, tokens.shape[1] + 1):
        ended = entry - beside[:-1, read]
        np.maximum.accumulate(ended, axis=0, out=ended)
        ended += beside[1:, read]

        paths = ended + blank[1:, None]
        hopeful = _scores(paths.max(0))[which] + hope[:, u] > 0
        done, going = hopeful & (lengths == u), hopeful & (lengths > u)
        found.append((rows[done], paths[:, which[done]]))
        if not going.any():
            break
        rows, tokens, lengths, which = (x[going] for x in (rows, tokens, lengths, which))
        hope = hope[going]

        # The next token follows any earlier frame; a repeated one is a new one only after a blank.
        np.maximum.accumulate(ended, axis=0, out=ended)
        entry = np.full((frames, len(rows)), _LOWEST)
        entry[1:] = ended[:-1, which]
        again = np.flatnonzero(tokens[:, u] == tokens[:, u - 1])
        entry[2:, again], entry[1:2, again] = ended[:-2, which[again]], _LOWEST
        read, which = tokens[:, u], np.arange(len(rows))
    return found


def places(paths: Paths) -> list[list[tuple[float, int, int]]]:
    """The best non-overlapping places of each spelling: log-probability, first frame, frame after the last."""
    left, starts = paths.scores, paths.starts
    at, every = np.arange(len(left))[:, None], np.arange(left.shape[1])
    found: list[list[tuple[float, int, int]]] = [[] for _ in every]
    for _ in range(_PLACES):
        end = left.argmax(0)
        start = starts[end, every]
        for some, *place in zip(found, left[end, every].tolist(), start.tolist(), (end + 1).tolist(), strict=True):
            some.append((place[0], int(place[1]), int(place[2])))
        left = np.where((starts <= end) & (at >= start), _LOG_ZERO, left)
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
    """Warn of a word that is one token: such words are the most frequent in training text, and parts of others."""
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
