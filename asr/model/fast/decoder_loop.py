"""The speller's loop in training, whose weights get their gradients once, for all steps together.

Autograd would compute the gradient of every matrix, and of the whole encoder output, at every step, and add it to the
sum so far. With few rows and large matrices that costs more than all the rest of a step. Here a step keeps the factors,
and one product of all of them gives the same sum; and it is one recorded function, not dozens of small ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from asr.model.attention import AttentionState, LocationAwareAttention, Memory

__all__ = ["DeferredAttention", "DeferredCell"]

_Pairs = list[tuple[Tensor, Tensor]]  # of factors, one for each step


class DeferredCell:
    """An LSTM cell in one loop: called as the cell is, with the same results."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        weight, bias = torch.cat([cell.weight_ih, cell.weight_hh], dim=1), cell.bias_ih + cell.bias_hh
        device = weight.device.type
        if torch.is_autocast_enabled(device):  # which would cast it anew at every step
            weight = weight.to(torch.get_autocast_dtype(device))
        self._pairs: _Pairs = []
        self._weights: tuple[Tensor, Tensor] = _CellWeights.apply(weight, bias, self._pairs)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`x` `(B, input_size)` and h and c `(B, H)` to the next h and c."""
        (weight, bias), (h, c) = self._weights, state
        seen = torch.cat([x.to(weight.dtype), h.to(weight.dtype)], dim=-1)
        following: tuple[Tensor, Tensor] = _CellStep.apply(seen, c, weight, bias, self._pairs)  # type: ignore[no-untyped-call]
        return following


class _CellStep(Function):
    @staticmethod
    def forward(
        ctx: Any, seen: Tensor, c: Tensor, weight: Tensor, bias: Tensor, pairs: _Pairs
    ) -> tuple[Tensor, Tensor]:
        gates = (seen @ weight.t()).float().add_(bias)
        enter, forget, new, leave = gates.chunk(4, dim=-1)
        for gate in (enter, forget, leave):
            gate.sigmoid_()
        following = (forget * c).addcmul_(enter, new.tanh_())
        shown = following.tanh()
        ctx.save_for_backward(seen, c, weight, gates, shown)
        ctx.pairs = pairs
        return leave * shown, following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_h: Tensor, to_c: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        seen, c, weight, gates, shown = ctx.saved_tensors
        enter, forget, new, leave = gates.chunk(4, dim=-1)
        to_c = to_c + to_h * leave * (1 - shown * shown)
        slopes = gates - gates * gates
        slopes.chunk(4, dim=-1)[2].copy_(1 - new * new)
        to_gates = torch.cat([to_c * new, to_c * c, to_c * enter, to_h * shown], dim=-1).mul_(slopes).to(seen.dtype)
        ctx.pairs.append((to_gates, seen))
        return to_gates @ weight, to_c * forget, None, None, None


class _CellWeights(Function):
    """The weights themselves; its backward comes after that of all steps, though they hand it nothing."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.pairs = pairs
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: None) -> tuple[Tensor, Tensor, None]:
        to_gates, seen = (torch.cat(parts) for parts in zip(*ctx.pairs, strict=True))
        ctx.pairs.clear()
        return to_gates.t() @ seen, to_gates.float().sum(0), None


class DeferredAttention:
    """Location-aware attention to one batch in one loop: called as the attention is, with the same results.

    It computes in float32 whatever the autocast state: a CPU is faster so at all that is not a large product.
    """

    def __init__(self, attention: LocationAwareAttention, memory: Memory) -> None:
        self._attention = attention
        # tanh(x) is 2 sigmoid(2 x) - 1, and sigmoid much the faster. Softmax does not see the 1: it is in every score.
        weights = (
            2 * memory.keys.float(),
            memory.values.float(),
            attention.filters.weight,
            2 * attention.to_location.weight,
            2 * attention.to_score.weight,
        )
        self._pairs: _Pairs = []
        self._sums: list[Tensor] = []
        self._weights: tuple[Tensor, ...] = _LookWeights.apply(self._sums, self._pairs, *weights)  # type: ignore[no-untyped-call]

    def __call__(self, query: Tensor, memory: Memory, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """Look once: query `(B, query_size)` to context `(B, context_size)` and the next state."""
        query = 2 * self._attention.to_query(query).float()
        allowed = self._attention.allowed(memory, state)
        context, alignment = _Look.apply(  # type: ignore[no-untyped-call]
            query, state.alignment.float(), allowed, self._sums, self._pairs, *self._weights
        )
        return context, AttentionState(alignment)


class _Look(Function):
    """Shapes: query `(B, S)`, last `(B, 1, T)`, keys `(B, T, S)`, values `(B, T, D)`, filters `(C, 1, W)`."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, last: Tensor, allowed: Tensor, sums: list[Tensor], pairs: _Pairs, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        keys, values, filters, to_location, to_score = weights
        with torch.autocast(query.device.type, enabled=False):
            location = nn.functional.conv1d(last, filters, padding="same").transpose(1, 2).flatten(0, 1)
            bent = torch.addmm(keys.flatten(0, 1), location, to_location.t())  # (B T, S)
            bent.view_as(keys).add_(query[:, None]).sigmoid_()
            scores = (bent @ to_score[0]).view_as(last)
            # The lowest finite value and not -inf: see Attention.
            alignment = scores.masked_fill_(~allowed, torch.finfo(scores.dtype).min).softmax(dim=-1)
            context = torch.bmm(alignment, values)[:, 0]
        ctx.save_for_backward(last, allowed, location, bent, alignment, *weights)
        ctx.sums, ctx.pairs = sums, pairs
        return context, alignment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_context: Tensor, to_alignment: Tensor) -> tuple[Tensor | None, ...]:
        last, allowed, location, bent, alignment, *weights = ctx.saved_tensors
        keys, values, filters, to_location, to_score = weights
        (batch, frames, _), (channels, _, width) = keys.shape, filters.shape
        with torch.autocast(to_context.device.type, enabled=False):
            to_context = to_context[:, None].contiguous()
            ctx.pairs.append((alignment, to_context))
            to_alignment = torch.bmm(to_context, values.transpose(1, 2)).add_(to_alignment)
            to_scores = alignment * (to_alignment - (alignment * to_alignment).sum(-1, keepdim=True)) * allowed
            flat = to_scores.flatten()
            to_bent = torch.addcmul(bent, bent, bent, value=-1).mul_(to_score).mul_(flat[:, None])
            to_filtered = to_bent @ to_location  # (B T, C)
            half = width // 2
            seen = nn.functional.pad(last[:, 0], (half, half)).unfold(1, width, 1).flatten(0, 1)  # (B T, W)
            if not ctx.sums:
                ctx.sums.extend(torch.zeros_like(x) for x in (keys, filters, to_location, to_score))
            to_keys, to_filters, to_locations, to_scorer = ctx.sums
            to_keys += to_bent.view_as(keys)
            to_filters[:, 0].addmm_(to_filtered.t(), seen)
            to_locations.t().addmm_(location.t(), to_bent)
            to_scorer[0].addmv_(bent.t(), flat)
            spread = filters[:, 0].t() @ to_filtered.view(batch, frames, channels).transpose(1, 2)  # (B, W, T)
            to_last = nn.functional.fold(spread, (1, frames + 2 * half), (1, width))[:, :, 0, half : -half or None]
        return to_bent.view_as(keys).sum(1), to_last, *[None] * 8


class _LookWeights(Function):
    """The weights and what is looked at; as `_CellWeights`."""

    @staticmethod
    def forward(ctx: Any, sums: list[Tensor], pairs: _Pairs, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sums, ctx.pairs = sums, pairs
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: None) -> tuple[Tensor | None, ...]:
        alignments, to_contexts = (torch.cat(parts, dim=1) for parts in zip(*ctx.pairs, strict=True))
        to_keys, *others = ctx.sums
        ctx.sums.clear()
        ctx.pairs.clear()
        with torch.autocast(to_keys.device.type, enabled=False):
            to_values = torch.bmm(alignments.transpose(1, 2), to_contexts)
        return None, None, to_keys, to_values, *others
