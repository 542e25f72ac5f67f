"""Words as numbers for the tagger, and the written forms of a word."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PAUSE_KINDS", "PIECES", "Case", "Pause", "Vocabulary", "pause_kinds", "write"]

PIECES = 6  # of each word: the word itself, its last 2, 3 and 4 letters, its first 3 and 4
PAUSE_EDGES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 2.0)  # seconds


class Case(IntEnum):
    """Case of a written word."""

    LOWER = 0
    CAPITAL = 1  # Paris
    UPPER = 2  # NASA, NASA's
    MIXED = 3  # iPhone: spelled as in the lexicon


class Pause(IntEnum):
    """Kind of pause after a word. Values from `SHORTEST` on are pauses of known length, in order of length."""

    UNKNOWN = 0
    END = 1  # of a finished segment
    UNFINISHED = 2  # the last word so far of an unfinished segment
    SHORTEST = 3


PAUSE_KINDS = Pause.SHORTEST + len(PAUSE_EDGES) + 1


def pause_kinds(seconds: Sequence[float | None]) -> npt.NDArray[np.int64]:
    """Kind of each pause: a `Pause`, or a number from `Pause.SHORTEST` on; None means an unknown length."""
    known = np.array([np.nan if each is None else each for each in seconds], dtype=np.float64)
    kinds = Pause.SHORTEST + np.searchsorted(PAUSE_EDGES, np.nan_to_num(known), side="right")
    return np.where(np.isnan(known), int(Pause.UNKNOWN), kinds).astype(np.int64)


class Words(NamedTuple):
    """Words as numbers."""

    words: npt.NDArray[np.int64]  # (T,), 0 for a word outside the frequent ones
    pieces: npt.NDArray[np.int64]  # (T, PIECES), 0 where the word is too short for the piece


class Vocabulary:
    """The frequent words, and the words with irregular capitals.

    Args:
        words: the frequent ones in lower case; numbered from 1 in this order.
        lexicon: lower case → written form: "iphone" → "iPhone".
        buckets: number of embeddings that hashed pieces of words share.
    """

    def __init__(self, words: Sequence[str], lexicon: Mapping[str, str], buckets: int) -> None:
        self.words, self.lexicon, self.buckets = tuple(words), dict(lexicon), buckets
        self._numbers = {word: number for number, word in enumerate(self.words, start=1)}

    def encode(self, words: Sequence[str]) -> Words:
        """Numbers of words in lower case."""
        numbers = np.array([self._numbers.get(word, 0) for word in words], dtype=np.int64)
        pieces = np.array([_pieces(word, self.buckets) for word in words], dtype=np.int64)
        return Words(numbers, pieces.reshape(-1, PIECES))


@functools.lru_cache(maxsize=10_000)
def _pieces(word: str, buckets: int) -> tuple[int, ...]:
    """Numbers of a word's pieces among the buckets, 0 where the word is too short."""
    parts = (word, *(word[-n:] if len(word) > n else "" for n in (2, 3, 4)))
    parts += tuple(word[:n] if len(word) > n else "" for n in (3, 4))
    return tuple(_bucket(kind, part, buckets) if part else 0 for kind, part in enumerate(parts))


def _bucket(kind: int, part: str, buckets: int) -> int:
    # Not `hash`, which differs from process to process.
    return 1 + zlib.crc32(f"{kind} {part}".encode(errors="backslashreplace")) % (buckets - 1)


def write(word: str, case: int, lexicon: Mapping[str, str]) -> str:
    """Write a lower-case word in the given case; the ending of a possessive stays in lower case.

    A word of mixed case that is not in the lexicon is written with an initial capital.
    """
    stem, ending = (word[:-2], "'s") if word.endswith("'s") and len(word) > 2 else (word, "")
    if case == Case.UPPER:
        return stem.upper() + ending
    if case == Case.MIXED and (word in lexicon or stem in lexicon):
        return lexicon.get(word) or lexicon[stem] + ending
    return word[:1].upper() + word[1:] if case else word
