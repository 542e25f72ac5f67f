"""Language model fusion with the decoder's internal language model subtracted.

The decoder has learned an internal language model from its transcripts. Subtracting it gives an external model, trained
on more text, more influence: McDermott et al. 2019 ("A density ratio approach to language model fusion").
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from asr.config import LmConfig
from asr.model.decoder import Decoder
from asr.model.lm import LmState, TokenPredictor
from asr.model.recurrent import PARTS, build_cell, run_cell
from asr.text.tokenizer import EOS

__all__ = ["DensityRatio", "InternalLm"]


class InternalLm(nn.Module):
    """The decoder without audio: the mean context replaces the output of attention.

    Internal language model estimation (Meng et al. 2021) with the mean context of Zeineldeen et al. 2021. The mean
    context is constant, so it is folded into the biases, which halves the work.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        first, mean = cast("nn.LSTMCell | nn.GRUCell", decoder.cells[0]), decoder.mean_context
        size, hidden = decoder.config.embedding_size, decoder.config.hidden_size
        self.parts, self.readout = PARTS[decoder.config.cell], decoder.config.readout
        self.embedding, self.to_logits = decoder.embedding, decoder.to_logits
        cell = build_cell(decoder.config.cell, size, hidden).to(mean.device, mean.dtype)
        cell.weight_ih.copy_(first.weight_ih[:, :size])
        cell.weight_hh.copy_(first.weight_hh)
        cell.bias_ih.copy_(first.bias_ih + first.weight_ih[:, size:] @ mean)
        cell.bias_hh.copy_(first.bias_hh)
        self.cells = nn.ModuleList([cell, *decoder.cells[1:]])
        self.to_readout = nn.Linear(hidden, hidden, device=mean.device, dtype=mean.dtype)
        self.to_readout.weight.copy_(decoder.to_readout.weight[:, :hidden])
        self.to_readout.bias.copy_(decoder.to_readout.bias + decoder.to_readout.weight[:, hidden:] @ mean)

    def initial_state(self, rows: int) -> LmState:
        zeros = self.to_readout.weight.new_zeros(rows, len(self.cells), self.to_readout.out_features)
        return LmState(zeros, zeros)

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """Log-probabilities `(N, vocab_size)` in float32 of what follows `tokens` `(N,)`, and the next state."""
        x, hidden, cells = self.embedding(tokens), [], []
        for i, cell in enumerate(self.cells):
            known = torch.stack([state.hidden[:, i], state.cell[:, i]], dim=1)
            after = run_cell(cell, x, known[:, : self.parts])
            x = after[:, 0]
            hidden.append(x)
            cells.append(after[:, -1])  # a GRU has no c: h takes its place, and is not used
        return self.logits(x).float().log_softmax(-1), LmState(torch.stack(hidden, 1), torch.stack(cells, 1))

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(N, vocab_size)` of outputs `(N, hidden_size)` of the last cell."""
        readout = self.to_readout(x)
        logits: Tensor = self.to_logits(readout.tanh() if self.readout == "tanh" else readout)
        return logits


class Stepped(Protocol):
    """Interface of an internal language model."""

    def initial_state(self, rows: int) -> LmState:
        """State before the first token."""

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """As `InternalLm.step`."""


class DensityRatio:
    """Scores log p(token) of a language model minus `share` times log p(token) of an internal one.

    The score of eos is the language model's: without audio, the internal one cannot predict the end of a sentence.
    """

    def __init__(self, lm: TokenPredictor, internal: Stepped, share: float) -> None:
        self.lm, self.internal, self.share = lm, internal, share

    @property
    def config(self) -> LmConfig:
        return self.lm.config

    def initial_state(self, rows: int) -> LmState:
        """The states of both models."""
        return self.lm.initial_state(rows)._replace(internal=self.internal.initial_state(rows))

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        scores, after = self.lm.step(tokens, state)
        internal, own = self.internal.step(tokens, cast(LmState, state.internal))
        internal[:, EOS] = 0.0
        return scores - self.share * internal, after._replace(internal=own)
