"""A product taken at every step of a loop, whose matrix gets its gradient once, for all steps together.

Autograd would compute a gradient of the whole matrix at every step and add it to the sum so far. With a speller's large
matrices and few rows that costs more than all the rest of a step. Here each step only keeps its two factors, and one
product of all of them gives the same sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["Deferred"]


class Deferred:
    """`x @ matrix`, for each `x` `(B, n)` of one loop and a `matrix` `(n, m)`."""

    def __init__(self, matrix: Tensor) -> None:
        device = matrix.device.type
        if torch.is_autocast_enabled(device):  # which does not reach into functions of one's own
            matrix = matrix.to(torch.get_autocast_dtype(device))
        self._factors: list[tuple[Tensor, Tensor]] = []
        self._matrix: Tensor = _Gathered.apply(matrix, self._factors)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x.to(self._matrix.dtype), self._matrix, self._factors)  # type: ignore[no-untyped-call]
        return product


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, factors: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.factors = factors
        return x @ matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, matrix = ctx.saved_tensors
        ctx.factors.append((x, gradient))
        return gradient @ matrix.t(), None, None


class _Gathered(Function):
    """The matrix itself; its backward comes after that of all products, though they hand it nothing."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, factors: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.factors = factors
        return matrix.view_as(matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor, None]:
        xs, gradients = zip(*ctx.factors, strict=True)
        ctx.factors.clear()
        return torch.cat(xs).t() @ torch.cat(gradients), None
