"""Int8 on a CPU for the LSTMs that take most of the time of a search or a stream.

Each output of a weight matrix has a scale, as usual. A scale of the inputs that is shared by a batch would make a row
depend on its neighbours. Here it is a constant for outputs of an LSTM, which lie between -1 and 1, and a number per row
for all other inputs. Sums of integers are exact, so a row's result is bit for bit the same in every batch.

Processors with VNNI accumulate products of bytes in 32 bits. On others FBGEMM first adds pairs of products in 16 bits,
which do not overflow if the inputs have 7 bits. FBGEMM packs weights from a tensor of dtype qint8, which PyTorch will
remove in an unspecified release (pytorch/pytorch#184982). Without VNNI the alternative, oneDNN's kernel, is several
times slower. Where PyTorch lacks the functions, nothing is in int8, and float16 remains.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor, nn

from asr.model import fast
from asr.model.fast import fp16

__all__ = [
    "Bidirectional8",
    "Linear8",
    "available",
    "fits",
    "gates_in_order",
    "largest",
    "lstm_step",
    "reversal",
    "vnni",
]

_LARGEST = 127  # of the weights, and of the inputs with VNNI


def available() -> bool:
    """Whether fast paths are on, and this machine and this version of PyTorch have the kernels."""
    return fast.enabled() and fp16.available() and _work()


@functools.cache
def _work() -> bool:
    """Whether the kernels work; one that PyTorch lacks raises an error."""
    try:
        Linear8(torch.ones(8, 8), packed=True).of_units(torch.ones(1, 8))
    except (AttributeError, RuntimeError):
        return False
    return True


@functools.cache
def vnni() -> bool:
    """Whether the processor accumulates products of bytes in 32 bits."""
    return bool(torch.cpu._is_vnni_supported())


def largest() -> int:
    """The largest integer that inputs are rounded to."""
    return _LARGEST if vnni() else 63


def fits(x: Tensor) -> bool:
    """Whether the kernels take this kind of tensor: float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32


class Linear8:
    """A linear layer without bias; inputs `(..., D)` and outputs `(..., N)` are float32.

    Args:
        weight: `(N, D)`.
        packed: store it in the layout of oneDNN's kernel, into which a large matrix would otherwise be copied at every
            call. Without VNNI all are packed, for FBGEMM.
    """

    def __init__(self, weight: Tensor, packed: bool = False) -> None:
        weight = weight.detach().float()
        self.scale = weight.abs().amax(dim=1).clamp(min=1e-12) / _LARGEST
        self.weight = (weight / self.scale[:, None]).round_().to(torch.int8).t()
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        if vnni():
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight.t().contiguous(), None) if packed else None
        else:
            self._packed = _pack_for_fbgemm(self.weight.t().contiguous(), self.scale, self._zeros)

    def of_units(self, x: Tensor) -> Tensor:
        """Outputs for inputs between -1 and 1."""
        return self.of_whole((x * largest()).round_()).mul_(1 / largest())

    def of_whole(self, whole: Tensor) -> Tensor:
        """Outputs for inputs that are integers, none above `largest()` in magnitude."""
        rows, count = whole.flatten(0, -2), whole.shape[:-1].numel()
        found: Tensor
        if not vnni():  # the kernel rounds to unsigned bytes, of this scale and zero point
            found = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, 64, self._packed)
        elif self._packed is None:
            found = torch._int_mm(rows.to(torch.int8), self.weight).float().mul_(self.scale)
        else:
            # The fast kernel takes unsigned bytes, their scale and their zero point.
            padded = nn.functional.pad(rows + 128, (0, 0, 0, rounded_up(count) - count))
            inputs, weights = (padded.to(torch.uint8), 1.0, 128), (self._packed, self.scale, self._zeros)
            found = torch.ops.onednn.qlinear_pointwise(*inputs, *weights, None, 1.0, 0, torch.float32, "none", [], "")
            found = found[:count]
        return found.view(*whole.shape[:-1], -1)


def rounded_up(rows: int) -> int:
    """`rows` rounded up to one of few sizes: oneDNN compiles a kernel for each, which takes longer than running it."""
    step = max(16, 1 << max(0, rows.bit_length() - 5))
    return -(-rows // step) * step


def _pack_for_fbgemm(weight: Tensor, scale: Tensor, zeros: Tensor) -> object:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*quantized tensor creation functions")  # no other way to pack is offered
        quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs `(..., D)` as integers, none above `largest()` in magnitude, and the scale of each row, `(..., 1)`."""
    step = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12) / largest()
    return (x / step).round_(), step


def reversal(lengths: Tensor, frames: int) -> Tensor:
    """Index `(T, B)` that reverses the frames of each row within its length `(B,)`; it is its own inverse."""
    at = torch.arange(frames)[:, None]
    return torch.where(at < lengths, lengths - 1 - at, at)


class Bidirectional8:
    """A forward and a backward LSTM of one layer each, run in one loop over time; for processors with VNNI.

    With FBGEMM's kernels, it takes as long as PyTorch's LSTMs for 16 rows, and twice as long for one.
    """

    def __init__(self, forward: nn.LSTM, backward: nn.LSTM) -> None:
        parts = [[gates_in_order(part) for part in lstm.all_weights[0]] for lstm in (forward, backward)]
        self.inputs = [Linear8(input_weight, packed=True) for input_weight, *_ in parts]
        self.biases = [b_ih + b_hh for *_, b_ih, b_hh in parts]
        recurrent = [Linear8(recurrent_weight) for _, recurrent_weight, *_ in parts]
        self.weights = [each.weight for each in recurrent]
        self.scale = torch.stack([each.scale for each in recurrent])[:, None] / _LARGEST  # (2, 1, 4 H)

    def run(
        self, x: Tensor, lengths: Tensor, hidden: tuple[Tensor, Tensor], settled: int | Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Run both over the frames `x` `(B, T, D)`; the backward one skips those beyond `lengths` `(B,)`.

        Args:
            x: frames.
            lengths: of the rows.
            hidden: h and c of the forward LSTM before the first frame, `(B, H)` each. The backward one starts at 0.
            settled: frames after which the forward LSTM's state is returned, fewer than T; `(B,)`, or for all rows.

        Returns:
            Outputs `(B, T, H)` of the forward and of the backward LSTM, and that state.
        """
        (batch, frames, _), (h, c) = x.shape, hidden

        # Time first, and the backward frames of each row in reverse.
        at, rows, turned = torch.arange(frames)[:, None], torch.arange(batch), reversal(lengths, frames)
        whole, step = rounded_rows(x)
        gates = x.new_empty(2, frames, batch, 4 * h.shape[-1])
        for order, linear, bias, out in zip((at, turned), self.inputs, self.biases, gates, strict=True):
            torch.addcmul(bias, linear.of_whole(whole[rows, order]), step[rows, order], out=out)

        begin = torch.stack([h, torch.zeros_like(h)]), torch.stack([c, torch.zeros_like(c)])
        hs, cs = self._loop(gates.transpose(0, 1), *begin)
        count = torch.as_tensor(settled)
        last, begun = (count - 1).clamp(min=0), (count > 0)[..., None]
        after = torch.where(begun, hs[last, 0, rows], h), torch.where(begun, cs[last, 0, rows], c)
        return hs[:, 0].transpose(0, 1), hs[turned, 1, rows].transpose(0, 1), after

    def _loop(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and cells `(T, 2, B, H)` for gates `(T, 2, B, 4 H)`, overwritten, and h and c `(2, B, H)`."""
        size, outputs = h.shape[-1], gates.new_empty(2, len(gates), *h.shape)
        rounded, small = torch.empty_like(h), torch.empty(h.shape, dtype=torch.int8)
        sums, products = torch.empty(gates.shape[1:], dtype=torch.int32), gates.new_empty(gates.shape[1:])
        each = list(zip(small.unbind(), self.weights, sums.unbind(), strict=True))

        # Views of each step, made once: indexing in the loop would cost more than the arithmetic.
        i, f, o, g = (gate.unbind() for gate in gates.unflatten(-1, (4, size)).unbind(-2))
        i_f_o, whole, (hs, cs) = gates[..., : 3 * size].unbind(), gates.unbind(), (x.unbind() for x in outputs)
        for t, now in enumerate(whole):
            small.copy_(torch.mul(h, _LARGEST, out=rounded).round_())
            for row, weight, into in each:
                torch._int_mm(row, weight, out=into)
            now.addcmul_(products.copy_(sums), self.scale)
            i_f_o[t].sigmoid_()
            c = torch.mul(f[t], c, out=cs[t]).addcmul_(i[t], g[t].tanh_())
            h = torch.mul(o[t], c.tanh(), out=hs[t])
        return outputs[0], outputs[1]


def gates_in_order(weight: Tensor) -> Tensor:
    """Rows of a weight or bias with the gates in the order i f o g; PyTorch's is i f g o."""
    i, f, g, o = weight.detach().chunk(4)
    return torch.cat([i, f, o, g])


def lstm_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The next h and c `(..., H)`, for gates `(..., 4 H)` in the order i f o g, which are overwritten."""
    size = c.shape[-1]
    i, f, o = gates[..., : 3 * size].sigmoid_().split(size, dim=-1)
    c = torch.addcmul(f * c, i, gates[..., 3 * size :].tanh_())
    return o * c.tanh(), c
