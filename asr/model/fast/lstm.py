"""LSTM over whole sequences for training on a CPU in bfloat16, where the backward of PyTorch's own is slow.

With few rows and large matrices, PyTorch's backward takes many times as long as its forward. Here the loop over time
carries only what the next step needs, and the gradient of each weight matrix is one product over all steps.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from asr.model import fast

__all__ = ["applies", "run"]

# Measured forward and backward, with 4 to 17 rows of 30 s in all: below this size ours is 0.8 to 1.4 times as fast as
# PyTorch's, at 1.8 million weights (H 384, D 768) 1.0 to 1.7 times, at 5.2 million (H 512, D 2048) 2.7 to 4.2 times.
_LEAST_WEIGHTS = 1_500_000


def applies(lstm: nn.LSTM, x: Tensor) -> bool:
    """Whether `run` is the faster way to train this LSTM on `x` `(B, T, D)`, and may be used."""
    in_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    weights = 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)
    on_cpu_in_training = x.device.type == "cpu" and torch.is_grad_enabled()
    return fast.enabled() and on_cpu_in_training and in_bfloat16 and weights >= _LEAST_WEIGHTS


def run(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Outputs `(B, T, H)` of a single layer for `x` `(B, T, D)` from a zero state, as `lstm(x)[0]`."""
    input_weight, recurrent_weight, *biases = lstm.parameters()
    factors = (each.bfloat16() for each in (x, input_weight, recurrent_weight))
    return cast(Tensor, _Lstm.apply(*factors, biases[0] + biases[1]))  # type: ignore[no-untyped-call]


class _Lstm(Function):
    """Time-major inside; gates in PyTorch's order: i f g o.

    Only the factors of matrix products are bfloat16. The gates, c and the gradients carried from step to step are
    float32: rounding them at every step would lose what a forget gate near 1 lets through for hundreds of steps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, input_weight: Tensor, recurrent_weight: Tensor, bias: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        x = x.transpose(0, 1).flatten(0, 1)  # (T B, D)

        # The inputs' share of all gates at once; the loop adds the recurrent share in place.
        gates = (x @ input_weight.t()).float().add_(bias).view(steps, batch, 4, -1)
        c = gates.new_zeros(steps + 1, batch, gates.shape[-1])
        h, product = x.new_zeros(c.shape), x.new_empty(batch, len(recurrent_weight))

        # Views of each step, made once: indexing in the loop would cost more than the arithmetic.
        hs, cs, flat, transposed = h.unbind(), c.unbind(), gates.flatten(2).unbind(), recurrent_weight.t()
        i, f, g, o = (gate.unbind() for gate in gates.unbind(2))
        i_and_f = gates[:, :, :2].unbind()
        for t in range(steps):
            flat[t].add_(torch.mm(hs[t], transposed, out=product))
            i_and_f[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], cs[t], out=cs[t + 1]).addcmul_(i[t], g[t])
            torch.mul(o[t], cs[t + 1].tanh(), out=hs[t + 1])

        ctx.save_for_backward(x, input_weight, recurrent_weight, gates, h, c)
        return h[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, input_weight, recurrent_weight, gates, h, c = ctx.saved_tensors
        steps, batch = gates.shape[:2]
        i, f, g, o = gates.unbind(2)

        # Factors that do not depend on gradients, for all steps at once: from grad_h to grad_c, and from grad_c (i f g)
        # or grad_h (o) to the gradients of the gates before their sigmoid or tanh.
        tanh_c = c[1:].tanh()
        h_to_c = o * (1 - tanh_c * tanh_c)
        factors = torch.addcmul(gates, gates, gates, value=-1)  # slope of the sigmoid
        factors[:, :, 2] = i * (1 - g * g)
        for gate, factor in ((0, g), (1, c[:-1]), (3, tanh_c)):
            factors[:, :, gate] *= factor

        # The loop carries grad_h and grad_c backwards, and fills grad_gates.
        grad_gates, product = x.new_empty(gates.shape), x.new_empty(c[0].shape)
        grad_h, grad_c = torch.zeros_like(c[0]), torch.zeros_like(c[0])
        grad_ys, flat, fs, h_to_cs = grad_y.unbind(1), grad_gates.flatten(2).unbind(), f.unbind(), h_to_c.unbind()
        grad_ifg, grad_o = grad_gates[:, :, :3].unbind(), grad_gates[:, :, 3:].unbind()
        factor_ifg, factor_o = factors[:, :, :3].unbind(), factors[:, :, 3:].unbind()
        for t in reversed(range(steps)):
            grad_h.copy_(grad_ys[t])
            if t + 1 < steps:
                grad_h.add_(torch.mm(flat[t + 1], recurrent_weight, out=product))
                grad_c.mul_(fs[t + 1])
            grad_c.addcmul_(grad_h, h_to_cs[t])
            torch.mul(factor_ifg[t], grad_c[:, None], out=grad_ifg[t])
            torch.mul(factor_o[t], grad_h[:, None], out=grad_o[t])

        # One product each over all steps.
        grad_gates = grad_gates.flatten(0, 1).flatten(1)  # (T B, 4 H)
        grad_x = (grad_gates @ input_weight).view(steps, batch, -1).transpose(0, 1)
        grad_input_weight, grad_recurrent_weight = grad_gates.t() @ x, grad_gates.t() @ h[:-1].flatten(0, 1)
        return grad_x, grad_input_weight, grad_recurrent_weight, grad_gates.sum(0, dtype=c.dtype)
