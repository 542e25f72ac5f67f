"""A tokenizer of given pieces, for tests that need to know its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from asr.text.tokenizer import WORD_START, Tokenizer

__all__ = ["FakePieces"]


class FakePieces(Tokenizer):
    """Pieces without a sentencepiece model: it cannot encode.

    Args:
        pieces: of all tokens, the four special ones included.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        self.word_starts = [piece.startswith(WORD_START) for piece in pieces]

    def __len__(self) -> int:
        return len(self.pieces)

    def piece(self, token: int) -> str:
        return self.pieces[token]
