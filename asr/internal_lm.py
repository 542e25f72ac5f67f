"""Fusion that does not count language twice: a language model less the one that the speller has learned by itself.

The speller knows its transcripts' language, and little else. Where that is taken off, a language model of much more
text can weigh more: McDermott et al. 2019 ("A density ratio approach to language model fusion"), and for a speller of
which only itself is asked, Meng et al. 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr.config import LmConfig
from asr.decoder import Decoder
from asr.lm import LmState, TokenPredictor
from asr.tokenizer import EOS

__all__ = ["DensityRatio"]


class DensityRatio:
    """Scores log p(token) of a language model, less `share` times that of a speller that hears nothing in particular.

    The end of a sentence is left as the language model has it: a speller without audio knows nothing of it.
    """

    def __init__(self, lm: TokenPredictor, decoder: Decoder, share: float) -> None:
        self.lm, self.decoder, self.share = lm, decoder, share

    @property
    def config(self) -> LmConfig:
        return self.lm.config

    def initial_state(self, rows: int) -> LmState:
        """That of both as one: their values side by side."""
        known, decoder = self.lm.initial_state(rows), self.decoder
        own = decoder.mean_context.new_zeros(rows, decoder.config.layers, 2, decoder.config.hidden_size)
        return _joined(known, own)

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        layers, size = self.decoder.config.layers, self.decoder.config.hidden_size
        (known_h, own_h), (known_c, own_c) = (x[:, 0].tensor_split([-layers * size], dim=1) for x in state)
        shape = (len(tokens), self.config.layers, self.config.hidden_size)
        scores, known = self.lm.step(tokens, LmState(known_h.reshape(shape), known_c.reshape(shape)))
        own = torch.stack([x.reshape(len(tokens), layers, size) for x in (own_h, own_c)], dim=2)
        readout, own = self.decoder.step_unheard(tokens, own)
        internal = self.decoder.logits(readout).float().log_softmax(-1)
        internal[:, EOS] = 0.0
        return scores - self.share * internal, _joined(known, own)


def _joined(known: LmState, own: Tensor) -> LmState:
    """A language model's state and a speller's `(N, layers, 2, H)` as one, of one layer."""
    h, c = own.unbind(2)
    return LmState(
        torch.cat([known.hidden.flatten(1), h.flatten(1)], dim=1)[:, None],
        torch.cat([known.cell.flatten(1), c.flatten(1)], dim=1)[:, None],
    )
