"""An LSTM over whole sequences for training on a CPU in bfloat16, where PyTorch's own is slow backwards.

With a few rows and large matrices its backward takes many times as long as its forward. Here the loop over time carries
only what the next step needs, and the gradients of both matrices are one product each over all steps.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["run_lstm", "run_noting"]

# Measured, forward and backward, with 4 to 17 rows of 30 s in all: below this ours is 0.8 to 1.4 times as fast as
# PyTorch's, at 1.8 million weights (H 384, D 768) 1.0 to 1.7 times, at 5.2 million (H 512, D 2048) 2.7 to 4.2 times.
_LEAST_WEIGHTS = 1_500_000


def run_lstm(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """`x` `(B, T, D)` to the outputs `(B, T, H)` of a single layer from a state of zeros, as `lstm(x)[0]` has them."""
    if not _is_faster(lstm, x):
        return cast(Tensor, lstm(x)[0])
    to_gates, recurrent, *biases = lstm.parameters()
    factors = (each.bfloat16() for each in (x, to_gates, recurrent))
    return cast(Tensor, _Lstm.apply(*factors, biases[0] + biases[1]))  # type: ignore[no-untyped-call]


def run_noting(
    lstm: nn.LSTM, x: Tensor, hidden: tuple[Tensor, Tensor], noted: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The outputs of a single layer from a state on, and what that state is after the first `noted` < T frames."""
    if noted == 0:
        return cast(Tensor, lstm(x, hidden)[0]), hidden
    first, hidden = lstm(x[:, :noted], hidden)
    return torch.cat([first, lstm(x[:, noted:], hidden)[0]], dim=1), hidden


def _is_faster(lstm: nn.LSTM, x: Tensor) -> bool:
    in_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    weights = 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)
    return x.device.type == "cpu" and in_bfloat16 and torch.is_grad_enabled() and weights >= _LEAST_WEIGHTS


class _Lstm(Function):
    """All inside is time-major; gates are in PyTorch's order: enter, forget, new, leave.

    Only the factors of products are bfloat16. Gates, c and the gradients that are carried from step to step are
    float32: rounded at every step, they would lose what a forget gate near 1 lets through for hundreds of steps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, to_gates: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        x = x.transpose(0, 1).flatten(0, 1)  # (T B, D)
        gates = (x @ to_gates.t()).float().add_(bias).view(steps, batch, 4, -1)
        c = gates.new_zeros(steps + 1, batch, gates.shape[-1])
        h, product = x.new_zeros(c.shape), x.new_empty(batch, len(recurrent))
        hs, cs, flat, transposed = h.unbind(), c.unbind(), gates.flatten(2).unbind(), recurrent.t()
        enter, forget, new, leave = (gate.unbind() for gate in gates.unbind(2))
        first = gates[:, :, :2].unbind()
        for t in range(steps):
            flat[t].add_(torch.mm(hs[t], transposed, out=product))
            first[t].sigmoid_()
            new[t].tanh_()
            leave[t].sigmoid_()
            torch.mul(forget[t], cs[t], out=cs[t + 1]).addcmul_(enter[t], new[t])
            torch.mul(leave[t], cs[t + 1].tanh(), out=hs[t + 1])
        ctx.save_for_backward(x, to_gates, recurrent, gates, h, c)
        return h[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, to_gates, recurrent, gates, h, c = ctx.saved_tensors
        steps, batch = gates.shape[:2]
        enter, forget, new, leave = gates.unbind(2)
        shown = c[1:].tanh()
        c_to_h = leave * (1 - shown * shown)
        # What the gradients of c and h are multiplied with for those of the gates.
        factors = torch.addcmul(gates, gates, gates, value=-1)
        factors[:, :, 2] = enter * (1 - new * new)
        for part, factor in ((0, new), (1, c[:-1]), (3, shown)):
            factors[:, :, part] *= factor
        gradient, product = x.new_empty(gates.shape), x.new_empty(c[0].shape)
        to_h, to_c = torch.zeros_like(c[0]), torch.zeros_like(c[0])
        ys, flat, forgets, slopes = to_y.unbind(1), gradient.flatten(2).unbind(), forget.unbind(), c_to_h.unbind()
        (of_c, by_c), (of_h, by_h) = (
            [each[:, :, parts].unbind() for each in (gradient, factors)] for parts in (slice(3), slice(3, 4))
        )
        for t in reversed(range(steps)):
            to_h.copy_(ys[t])
            if t + 1 < steps:
                to_h.add_(torch.mm(flat[t + 1], recurrent, out=product))
                to_c.mul_(forgets[t + 1])
            to_c.addcmul_(to_h, slopes[t])
            torch.mul(by_c[t], to_c[:, None], out=of_c[t])
            torch.mul(by_h[t], to_h[:, None], out=of_h[t])
        total = gradient.flatten(0, 1).flatten(1)  # (T B, 4 H)
        to_x = (total @ to_gates).view(steps, batch, -1).transpose(0, 1)
        return to_x, total.t() @ x, total.t() @ h[:-1].flatten(0, 1), total.sum(0, dtype=c.dtype)
