"""Steps of language models with one LSTM layer, in int8 on a CPU.

The input of the LSTM is one of a few hundred embeddings, so its share of the gates is looked up in a table. Only the
recurrence is in int8: rounding in the layers after it would change the scores most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asr.config import LmConfig
from asr.model.fast import fp16, int8
from asr.model.internal_lm import InternalLm
from asr.model.lm import LanguageModel, LmState, TokenPredictor

__all__ = ["Lm8", "quick", "quick_internal"]

_LARGE = 2**20  # elements; a matrix with more is read faster when packed


class Lm8:
    """A language model's step without its module; a row's scores do not depend on the batch."""

    def __init__(self, config: LmConfig, lm: LanguageModel | InternalLm, weights: Sequence[Tensor]) -> None:
        """`weights` are those of the LSTM and its biases, in PyTorch's order."""
        self.config, self.lm = config, lm
        w_ih, w_hh, b_ih, b_hh = (int8.gates_in_order(weight) for weight in weights)
        self._gates = torch.addmm(b_ih + b_hh, lm.embedding.weight.detach(), w_ih.t())  # (V, 4 H): each token's share
        self._recurrent = int8.Linear8(w_hh, packed=w_hh.numel() > _LARGE)
        self._logits = _logits(lm)

    def initial_state(self, rows: int) -> LmState:
        return self.lm.initial_state(rows)

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """As `LanguageModel.step`."""
        gates = self._recurrent.of_units(state.hidden[:, 0]).add_(self._gates.index_select(0, tokens))
        h, c = int8.lstm_step(gates, state.cell[:, 0])
        return self._logits(h).log_softmax(-1), LmState(h[:, None], c[:, None])


def _logits(lm: LanguageModel | InternalLm) -> Callable[[Tensor], Tensor]:
    """The layers after the LSTM, their weights packed."""
    if isinstance(lm, InternalLm) or lm.to_logits is not None:
        return lm.logits
    last = nn.Linear(lm.config.embedding_size, lm.config.vocab_size, device="meta")
    last.weight, last.bias = lm.embedding.weight, lm.bias
    return fp16.pack(nn.Sequential(lm.projection, last))


def quick(lm: LanguageModel) -> TokenPredictor:
    """The language model in int8, where that is possible."""
    (weights, *more) = lm.lstm.all_weights
    return Lm8(lm.config, lm, weights) if not more and _possible(weights) else lm


def quick_internal(lm: InternalLm, config: LmConfig) -> InternalLm | Lm8:
    """The internal language model of a decoder in int8, where that is possible."""
    (cell, *more) = lm.cells
    if more or not isinstance(cell, nn.LSTMCell):
        return lm
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    return Lm8(config, lm, weights) if _possible(weights) else lm


def _possible(weights: Sequence[Tensor]) -> bool:
    return int8.available() and len(weights) == 4 and all(int8.fits(weight) for weight in weights)
