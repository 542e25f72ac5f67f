"""Single-layer LSTMs over whole sequences, and from a given state; cells of LSTMs and GRUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from asr.model.fast import lstm as fast_lstm

__all__ = ["PARTS", "build_cell", "run_cell", "run_lstm", "run_lstm_from"]

PARTS = {"lstm": 2, "gru": 1}  # of the state of a cell: h and c, or h


def build_cell(kind: str, input_size: int, hidden_size: int) -> nn.LSTMCell | nn.GRUCell:
    """The cell that a config names."""
    return nn.LSTMCell(input_size, hidden_size) if kind == "lstm" else nn.GRUCell(input_size, hidden_size)


def run_cell(cell: Callable[..., Tensor | tuple[Tensor, Tensor]], x: Tensor, state: Tensor) -> Tensor:
    """The state `(N, parts, H)` of a cell after an input `(N, D)`; part 0, h, is the output."""
    parts = state.unbind(1)
    after = cell(x, parts if len(parts) > 1 else parts[0])
    return after[:, None] if isinstance(after, Tensor) else torch.stack(after, dim=1)


def run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Outputs `(B, T, H)` for `x` `(B, T, D)` from a zero state; uses the fast path where it applies."""
    return fast_lstm.run(lstm, x) if fast_lstm.applies(lstm, x) else cast(Tensor, lstm(x)[0])


def run_lstm_from(
    lstm: nn.LSTM, x: Tensor, hidden: tuple[Tensor, Tensor], settled: int | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Outputs `(B, T, H)` for `x` `(B, T, D)` from a state, and a later state.

    Args:
        lstm: of one layer.
        x: the next frames.
        hidden: the state, `(B, H)` twice.
        settled: number of frames after which the returned state is taken, fewer than all; None: all.
    """
    before = (hidden[0][None], hidden[1][None])
    if settled == 0:
        return cast(Tensor, lstm(x, before)[0]), hidden
    y, (h, c) = lstm(x[:, :settled], before)
    if settled is not None:
        y = torch.cat([y, lstm(x[:, settled:], (h, c))[0]], dim=1)
    return y, (h[0], c[0])
