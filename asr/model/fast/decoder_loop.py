"""Decoder loop for training on a CPU, in which each weight gets its gradient once, for all steps together.

Autograd would compute the gradient of every weight matrix, and of the whole encoder output, at every step, and add it
to the sum so far. With few rows and large matrices this costs more than the rest of a step. Here each step keeps the
two factors of that product, and one product over all steps gives the same sum. A step is also one recorded function
instead of dozens of small ones.

A loop's weights pass through a function (`_CellWeights`, `_AttentionWeights`) whose backward runs after that of all
steps: it is there that the kept factors are multiplied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from asr.model.attention import AttentionState, LocationAwareAttention, Memory

__all__ = ["LoopAttention", "LoopCell"]

_Factors = list[tuple[Tensor, Tensor]]  # of one product, for each step


class LoopCell:
    """An LSTM cell for one loop: called as the cell, with the same results."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        weight, bias = torch.cat([cell.weight_ih, cell.weight_hh], dim=1), cell.bias_ih + cell.bias_hh
        device = weight.device.type
        if torch.is_autocast_enabled(device):  # which would cast the weight again at every step
            weight = weight.to(torch.get_autocast_dtype(device))
        self._factors: _Factors = []
        self._weights: tuple[Tensor, Tensor] = _CellWeights.apply(weight, bias, self._factors)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`x` `(B, input_size)` and h and c `(B, H)` to the next h and c."""
        (weight, bias), (h, c) = self._weights, state
        inputs = torch.cat([x.to(weight.dtype), h.to(weight.dtype)], dim=-1)
        following: tuple[Tensor, Tensor] = _CellStep.apply(inputs, c, weight, bias, self._factors)  # type: ignore[no-untyped-call]
        return following


class _CellStep(Function):
    """One step of an LSTM cell; inputs are x and h side by side, gates in PyTorch's order: i f g o."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, c: Tensor, weight: Tensor, bias: Tensor, factors: _Factors
    ) -> tuple[Tensor, Tensor]:
        gates = (inputs @ weight.t()).float().add_(bias)
        i, f, g, o = gates.chunk(4, dim=-1)
        for gate in (i, f, o):
            gate.sigmoid_()
        next_c = (f * c).addcmul_(i, g.tanh_())
        tanh_c = next_c.tanh()

        ctx.save_for_backward(inputs, c, weight, gates, tanh_c)
        ctx.factors = factors
        return o * tanh_c, next_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        inputs, c, weight, gates, tanh_c = ctx.saved_tensors
        i, f, g, o = gates.chunk(4, dim=-1)
        grad_c = grad_c + grad_h * o * (1 - tanh_c * tanh_c)

        # Through the gates, and back through their sigmoids and the tanh of g.
        slopes = gates - gates * gates
        slopes.chunk(4, dim=-1)[2].copy_(1 - g * g)
        grad_gates = torch.cat([grad_c * g, grad_c * c, grad_c * i, grad_h * tanh_c], dim=-1)
        grad_gates = grad_gates.mul_(slopes).to(inputs.dtype)

        ctx.factors.append((grad_gates, inputs))
        return grad_gates @ weight, grad_c * f, None, None, None


class _CellWeights(Function):
    """The weights unchanged; the backward multiplies the factors that all steps kept."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, factors: _Factors) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.factors = factors
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: None) -> tuple[Tensor, Tensor, None]:
        grad_gates, inputs = (torch.cat(parts) for parts in zip(*ctx.factors, strict=True))
        ctx.factors.clear()
        return grad_gates.t() @ inputs, grad_gates.float().sum(0), None


class LoopAttention:
    """Location-aware attention to one batch for one loop: called as the attention, with the same results.

    It computes in float32 whatever the autocast state: on a CPU that is faster for all but large matrix products.
    """

    def __init__(self, attention: LocationAwareAttention, memory: Memory) -> None:
        self._attention = attention
        # tanh(x) is 2 sigmoid(2 x) - 1, and sigmoid is much faster. Softmax ignores the -1, which is in every score.
        weights = (
            2 * memory.keys.float(),
            memory.values.float(),
            attention.filters.weight,
            2 * attention.to_location.weight,
            2 * attention.to_score.weight,
        )
        self._factors: _Factors = []
        self._sums: list[Tensor] = []
        self._weights: tuple[Tensor, ...] = _AttentionWeights.apply(self._sums, self._factors, *weights)  # type: ignore[no-untyped-call]

    def __call__(self, query: Tensor, memory: Memory, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Attend once: query `(B, query_size)` to context `(B, context_size)` and the next state."""
        query = 2 * self._attention.to_query(query).float()
        allowed = self._attention.allowed(memory, state)
        context, alignment = _AttentionStep.apply(  # type: ignore[no-untyped-call]
            query, state.alignment.float(), allowed, self._sums, self._factors, *self._weights
        )
        return context, AttentionState(alignment)


class _AttentionStep(Function):
    """One step of location-aware attention.

    Shapes: query `(B, S)`, previous alignment `(B, 1, T)`, keys `(B, T, S)`, values `(B, T, D)`, filters `(C, 1, W)`,
    location_weight `(S, C)`, score_weight `(1, S)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        previous: Tensor,
        allowed: Tensor,
        sums: list[Tensor],
        factors: _Factors,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        keys, values, filters, location_weight, score_weight = weights
        with torch.autocast(query.device.type, enabled=False):
            location = nn.functional.conv1d(previous, filters, padding="same").transpose(1, 2).flatten(0, 1)
            hidden = torch.addmm(keys.flatten(0, 1), location, location_weight.t())  # (B T, S)
            hidden.view_as(keys).add_(query[:, None]).sigmoid_()
            scores = (hidden @ score_weight[0]).view_as(previous)
            # The lowest finite value instead of -inf: see Attention.
            alignment = scores.masked_fill_(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
            context = torch.bmm(alignment, values)[:, 0]

        ctx.save_for_backward(previous, allowed, location, hidden, alignment, *weights)
        ctx.sums, ctx.factors = sums, factors
        return context, alignment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_context: Tensor, grad_alignment: Tensor) -> tuple[Tensor | None, ...]:
        previous, allowed, location, hidden, alignment, *weights = ctx.saved_tensors
        keys, values, filters, location_weight, score_weight = weights
        (batch, frames, _), (channels, _, width) = keys.shape, filters.shape
        with torch.autocast(grad_context.device.type, enabled=False):
            # Through the weighted sum of the values and the softmax.
            grad_context = grad_context[:, None].contiguous()
            ctx.factors.append((alignment, grad_context))
            grad_alignment = torch.bmm(grad_context, values.transpose(1, 2)).add_(grad_alignment)
            weighted = (alignment * grad_alignment).sum(-1, keepdim=True)
            grad_scores = (alignment * (grad_alignment - weighted) * allowed).flatten()  # (B T)

            # Through the scores and the sigmoid.
            grad_hidden = torch.addcmul(hidden, hidden, hidden, value=-1).mul_(score_weight).mul_(grad_scores[:, None])
            grad_location = grad_hidden @ location_weight  # (B T, C)

            # The weights' gradients are small here, so that a sum is kept instead of factors.
            half = width // 2
            windows = nn.functional.pad(previous[:, 0], (half, half)).unfold(1, width, 1).flatten(0, 1)  # (B T, W)
            if not ctx.sums:
                ctx.sums.extend(torch.zeros_like(x) for x in (keys, filters, location_weight, score_weight))
            grad_keys, grad_filters, grad_location_weight, grad_score_weight = ctx.sums
            grad_keys += grad_hidden.view_as(keys)
            grad_filters[:, 0].addmm_(grad_location.t(), windows)
            grad_location_weight.t().addmm_(location.t(), grad_hidden)
            grad_score_weight[0].addmv_(hidden.t(), grad_scores)

            # Through the convolution to the previous alignment.
            spread = filters[:, 0].t() @ grad_location.view(batch, frames, channels).transpose(1, 2)  # (B, W, T)
            grad_previous = nn.functional.fold(spread, (1, frames + 2 * half), (1, width))
            grad_previous = grad_previous[:, :, 0, half : -half or None]
        return grad_hidden.view_as(keys).sum(1), grad_previous, *[None] * 8


class _AttentionWeights(Function):
    """Keys, values and weights unchanged; the backward multiplies the factors and hands out the sums of all steps."""

    @staticmethod
    def forward(ctx: Any, sums: list[Tensor], factors: _Factors, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sums, ctx.factors = sums, factors
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: None) -> tuple[Tensor | None, ...]:
        alignments, grad_contexts = (torch.cat(parts, dim=1) for parts in zip(*ctx.factors, strict=True))
        grad_keys, *grad_others = ctx.sums
        ctx.sums.clear()
        ctx.factors.clear()
        with torch.autocast(grad_keys.device.type, enabled=False):
            grad_values = torch.bmm(alignments.transpose(1, 2), grad_contexts)
        return None, None, grad_keys, grad_values, *grad_others
