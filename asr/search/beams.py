"""State of a beam search between steps: the live hypotheses and the finished ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.model.attention import Memory
from asr.model.decoder import DecoderState
from asr.model.lm import LmState
from asr.search.hypothesis import Repeats

__all__ = ["Beams", "Finished", "Listened", "Prefix"]

# The memory is copied once at most this fraction of its utterances is still being searched.
_NARROWER = 0.75


class Listened(NamedTuple):
    """The encoder output of the utterances that are still searched."""

    memory: Memory
    slots: Tensor  # (B,): place of each utterance of the search in the memory

    @classmethod
    def start(cls, memory: Memory) -> Listened:
        return cls(memory, torch.arange(len(memory.keys), device=memory.keys.device))

    def narrowed(self, owners: Tensor) -> Listened:
        """Without the utterances that have no live hypothesis, once they are many; `owners` `(N,)` is ascending."""
        present = owners.unique_consecutive()
        if len(present) > _NARROWER * len(self.memory.keys):
            return self
        slots = torch.zeros_like(self.slots)
        slots[present] = torch.arange(len(present), device=slots.device)
        return Listened(self.memory.select(self.slots[present]), slots)


class Beams(NamedTuple):
    """The live hypotheses, in a grid of K places for each of the B utterances, best first.

    A place whose score is minus infinity is empty. Models and scorers compute N rows: every place, so that all shapes
    stay the same, or only those that are not empty.
    """

    tokens: Tensor  # (B * K, L), the first `step` of them known
    token_scores: Tensor  # (B * K, L), their log-probabilities by the decoder
    scores: Tensor  # (B, K)
    repeats: Repeats  # (B * K)
    rows: Tensor  # (N,): the place of each row in the grid, ascending
    last: Tensor  # (N,)
    decoder: DecoderState  # (N)
    full: list[Any]  # states of the full scorers
    partial: list[Any]  # states of the partial scorers
    listened: Listened


class Prefix(NamedTuple):
    """Start of a search over B utterances whose first words are known, such as the committed words of a stream."""

    last: Tensor  # (B,): last known token; sos if there is none
    decoder: DecoderState  # after all known tokens but the last; its alignments may be shorter than the encoder_out
    first_frame: Tensor  # (B,): first frame after the known words, with which CTC scores begin
    word_starts: Tensor  # (V,) bool: tokens that begin a word; only these may follow the known words
    lm: LmState | None = None  # the language model's, also after all tokens but the last; None: its initial state

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
    total: Tensor  # (B,): best score without length normalisation

    def merge(self, scores: Tensor, tokens: Tensor, token_scores: Tensor) -> Finished:
        """Add `(B, K')` hypotheses and keep the best K."""
        scores = torch.cat([self.scores, scores], dim=1)
        best, places = scores.topk(self.scores.shape[1], dim=1)
        index = places[..., None].expand(-1, -1, tokens.shape[-1])
        return Finished(
            best,
            torch.cat([self.tokens, tokens], dim=1).gather(1, index),
            torch.cat([self.token_scores, token_scores], dim=1).gather(1, index),
            self.total,
        )
