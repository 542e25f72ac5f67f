"""A recurrent language model over the recogniser's tokens, for shallow fusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from asr.config import LmConfig
from asr.model.dense import Dense

__all__ = ["LanguageModel", "LmState", "TokenPredictor"]

_EMBEDDING_STD = 0.1


class LmState(NamedTuple):
    """State of the model between tokens."""

    hidden: Tensor  # (N, layers, H)
    cell: Tensor  # (N, layers, H)
    internal: LmState | None = None  # of the internal language model that is subtracted, if there is one

    def map(self, change: Callable[[Tensor], Tensor]) -> LmState:
        """The state with every tensor changed."""
        internal = None if self.internal is None else self.internal.map(change)
        return LmState(change(self.hidden), change(self.cell), internal)

    def select(self, rows: Tensor) -> LmState:
        return self.map(lambda x: x.index_select(0, rows))

    def where(self, rows: Tensor, other: LmState) -> LmState:
        """This state where `rows` `(N,)` is true, `other` elsewhere."""
        chosen, internal = rows[:, None, None], None
        if self.internal is not None and other.internal is not None:
            internal = self.internal.where(rows, other.internal)
        hidden, cell = torch.where(chosen, self.hidden, other.hidden), torch.where(chosen, self.cell, other.cell)
        return LmState(hidden, cell, internal)

    @classmethod
    def stack(cls, states: Sequence[LmState]) -> LmState:
        """Rows of several states as one state."""
        hidden, cell = torch.cat([state.hidden for state in states]), torch.cat([state.cell for state in states])
        internal = [state.internal for state in states if state.internal is not None]
        return cls(hidden, cell, cls.stack(internal) if internal else None)

    def split(self) -> list[LmState]:
        """One state for each row."""
        return [self.row(i) for i in range(len(self.hidden))]

    def row(self, number: int) -> LmState:
        """The state of one row, which shares memory with this one."""
        return self.map(lambda x: x[number : number + 1])

    def repeat(self, times: int) -> LmState:
        """Each row repeated `times` times, copies consecutive."""
        return self.map(lambda x: x.repeat_interleave(times, 0))


class TokenPredictor(Protocol):
    """Interface of a language model for the search."""

    @property
    def config(self) -> LmConfig: ...

    def initial_state(self, rows: int) -> LmState:
        """State before the first token."""

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """Scores `(N, vocab_size)` in float32 of the token after `tokens` `(N,)`, and the next state."""


class LanguageModel(nn.Module):
    """Embedding, LSTM, and an output layer with the weights of the embedding (Press and Wolf 2017).

    With dense layers, the output layer after them has weights of its own.
    """

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        nn.init.normal_(
            self.embedding.weight, std=_EMBEDDING_STD
        )  # torch's default of 1 is too large for an output layer
        between = config.dropout if config.layers > 1 else 0.0  # torch warns about dropout in a single layer
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, config.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        if config.dense_layers:
            sizes = [config.hidden_size] + [config.dense_size] * config.dense_layers
            pairs = pairwise(sizes)
            dense = [Dense(below, size, "layer", config.activation, config.dropout) for below, size in pairs]
            self.to_logits: nn.Sequential | None = nn.Sequential(
                *dense, nn.Linear(config.dense_size, config.vocab_size)
            )
        else:
            self.to_logits = None
            self.projection = nn.Linear(config.hidden_size, config.embedding_size)
            self.bias = nn.Parameter(self.embedding.weight.new_zeros(config.vocab_size))

    def forward(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """Logits `(N, U, vocab_size)` of the token after each of `tokens` `(N, U)`, and the next state."""
        x = self.dropout(self.embedding(tokens))
        carried = (state.hidden.transpose(0, 1).contiguous(), state.cell.transpose(0, 1).contiguous())
        x, (hidden, cell) = self.lstm(x, carried)
        return self.logits(x), LmState(hidden.transpose(0, 1), cell.transpose(0, 1))

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(..., vocab_size)` of outputs `(..., hidden_size)` of the LSTM."""
        if self.to_logits is not None:
            logits: Tensor = self.to_logits(x)
            return logits
        return nn.functional.linear(self.dropout(self.projection(x)), self.embedding.weight, self.bias)

    def step(self, tokens: Tensor, state: LmState) -> tuple[Tensor, LmState]:
        """Log-probabilities `(N, vocab_size)` in float32 of the token after `tokens` `(N,)`, and the next state."""
        logits, state = self(tokens[:, None], state)
        return logits[:, 0].float().log_softmax(-1), state

    def initial_state(self, rows: int) -> LmState:
        zeros = self.embedding.weight.new_zeros(rows, self.config.layers, self.config.hidden_size)
        return LmState(zeros, zeros)
