"""Muon (Jordan et al. 2024) for the matrices of LSTMs: momentum with all singular values set to about one.

Adam follows the few directions with large gradients; an orthogonal step moves along all directions, so that training
needs fewer words. Each gate's matrix is treated separately here, unlike in `torch.optim.Muon`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from asr.training.precision import has_bfloat16

__all__ = ["GateMuon"]

_GATES = 4  # of an LSTM, stacked in its matrices
_MOMENTUM = 0.95
_DECAY = 0.01  # of the weights, times the learning rate
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Newton-Schulz coefficients of the paper
_ROUNDS = 5


class GateMuon(torch.optim.Optimizer):
    """See the module's docstring.

    Args:
        parameters: weights `(4 x hidden, inputs)` of LSTMs.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            for weights in group["params"]:
                state = self.state[weights]
                if not state:
                    state["momentum"] = torch.zeros_like(weights)
                momentum = state["momentum"].lerp_(weights.grad, 1 - _MOMENTUM)
                ahead = weights.grad.lerp(momentum, _MOMENTUM)  # Nesterov
                gates = ahead.view(_GATES, -1, ahead.shape[1])
                update = orthogonal(gates).view_as(weights)
                size = max(1.0, gates.shape[1] / gates.shape[2]) ** 0.5
                weights.mul_(1 - group["lr"] * _DECAY).add_(update, alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices `(N, rows, columns)` with nearly the same singular vectors, and all singular values 0.7 to 1.2."""
    x = matrices.bfloat16() if has_bfloat16(matrices.device.type) else matrices
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True).to(x.dtype) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    result: Tensor = x.mT if tall else x
    return result.float()
