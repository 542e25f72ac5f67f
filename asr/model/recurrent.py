"""Single-layer LSTMs over whole sequences, and from a given state."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from asr.model.fast import lstm as fast_lstm

__all__ = ["run_lstm", "run_lstm_from"]


def run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Outputs `(B, T, H)` for `x` `(B, T, D)` from a zero state; uses the fast path where it applies."""
    return fast_lstm.run(lstm, x) if fast_lstm.applies(lstm, x) else cast(Tensor, lstm(x)[0])


def run_lstm_from(
    lstm: nn.LSTM, x: Tensor, hidden: tuple[Tensor, Tensor], settled: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Outputs `(B, T, H)` for `x` `(B, T, D)` from a state, and the state after the first `settled` < T frames."""
    if settled == 0:
        return cast(Tensor, lstm(x, hidden)[0]), hidden
    first, hidden = lstm(x[:, :settled], hidden)
    return torch.cat([first, lstm(x[:, settled:], hidden)[0]], dim=1), hidden
