"""The tagger's network: bidirectional LSTM over words and pauses, with a head for marks and one for capitals.

Pauses as a further input follow Tilk and Alumäe (2016). Embeddings of hashed pieces are added to those of words
(Bojanowski et al. 2017), so that rare words are represented too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.config import PunctuationConfig
from asr.writing.vocabulary import PAUSE_KINDS, Case, Pause

__all__ = ["KINDS_OF_OFFSETS", "PunctuationNetwork", "TagLogits", "kinds_of_offsets"]

KINDS_OF_OFFSETS = 3
_EMBEDDING_STD = 0.1


def kinds_of_offsets(pauses: Tensor) -> Tensor:
    """0 where the pause is unknown, 1 where it is known, 2 at the end of a finished segment."""
    return (pauses != Pause.UNKNOWN).long() + (pauses == Pause.END).long()


class TagLogits(NamedTuple):
    """Logits of the mark after each word and of its case."""

    marks: Tensor  # (N, T, marks)
    cases: Tensor  # (N, T, cases)


class PunctuationNetwork(nn.Module):
    """The network of this module. A row depends neither on its neighbours nor on its own padding."""

    def __init__(self, config: PunctuationConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.words + 1, config.embedding_size)
        self.pieces = nn.EmbeddingBag(config.buckets, config.embedding_size, mode="sum", padding_idx=0)
        self.pauses = nn.Embedding(PAUSE_KINDS, config.pause_size)
        for table in (self.words, self.pieces, self.pauses):
            nn.init.normal_(table.weight, std=_EMBEDDING_STD)
        sizes = [config.embedding_size + config.pause_size] + (config.layers - 1) * [2 * config.hidden_size]
        self.ahead = nn.ModuleList(nn.LSTM(size, config.hidden_size, batch_first=True) for size in sizes)
        self.back = nn.ModuleList(nn.LSTM(size, config.hidden_size, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.marks = nn.Linear(2 * config.hidden_size, len(config.marks))
        # Added to the logits of marks, a row for each kind of offset; zero in training.
        self.register_buffer("offsets", torch.zeros(KINDS_OF_OFFSETS, len(config.marks)))
        self.offsets: Tensor
        # The head for cases; saved models contain the name.
        self.forms = nn.Linear(2 * config.hidden_size, len(Case))

    def forward(self, words: Tensor, pieces: Tensor, pauses: Tensor, lengths: Tensor) -> TagLogits:
        """Logits for rows of words, padded at the end with anything.

        Args:
            words: numbers `(N, T)` of the vocabulary.
            pieces: numbers `(N, T, PIECES)` of the vocabulary.
            pauses: kinds `(N, T)` of the pause after each word.
            lengths: words `(N,)` of each row.
        """
        embedded = self.words(words) + self.pieces(pieces.flatten(0, 1)).view(*words.shape, -1)
        x = self.dropout(torch.cat([embedded, self.pauses(pauses)], dim=-1))
        # Rows are reversed without their padding, so that the backward LSTM starts at the last word. The index is its
        # own inverse and restores the order.
        places = torch.arange(words.shape[1], device=words.device).expand_as(words)
        reversal = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)[..., None]
        for ahead, back in zip(self.ahead, self.back, strict=True):
            forward = ahead(x)[0]
            backward = back(x.gather(1, reversal.expand_as(x)))[0]
            backward = backward.gather(1, reversal.expand_as(backward))
            x = self.dropout(torch.cat([forward, backward], dim=-1))
        return TagLogits(self.marks(x) + self.offsets[kinds_of_offsets(pauses)], self.forms(x))
