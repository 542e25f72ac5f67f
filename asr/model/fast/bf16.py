"""LSTMs in bfloat16 on processors with AMX, whose matrix units multiply it several times as fast as float32.

A row's result is bit for bit the same in every batch, and however its frames are cut: h and c are rounded to bfloat16
after every frame, and oneDNN's LSTM adds up the products of a row in the same order for any number of rows. Its linear
layers do not for all sizes, so the tests try all sizes of our models. Processors without AMX run its LSTM in bfloat16
more slowly than the one in float32; nothing changes there.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asr.model import fast
from asr.model.fast import int8

__all__ = ["Bidirectional16", "Lstm16", "amx", "available", "pack"]

M = TypeVar("M", bound=nn.Module)

_LSTM = 2  # PyTorch's number of this kind of layer


def amx() -> bool:
    """Whether the processor has AMX."""
    return bool(torch.cpu._is_amx_tile_supported())


def available() -> bool:
    """Whether fast paths are on, and this machine and this version of PyTorch have the kernels."""
    return fast.enabled() and _work()


@functools.cache
def _work() -> bool:
    """Whether the processor has AMX and the kernels work; one that PyTorch lacks raises an error."""
    try:
        if not amx():
            return False
        with torch.inference_mode():
            Lstm16(nn.LSTM(8, 8, batch_first=True))(torch.ones(1, 2, 8))
    except (AttributeError, RuntimeError):
        return False
    return True


def pack(module: M) -> M:
    """Replace LSTMs of one layer and direction in a module by `Lstm16`, in place; afterwards it is for inference only.

    Nothing changes in other dtypes than float32, or where the kernels are missing or fast paths are off.
    """
    if available():
        for name, child in module.named_children():
            if isinstance(child, nn.LSTM) and _fits(child):
                setattr(module, name, Lstm16(child))
            else:
                pack(child)
    return module


def _fits(lstm: nn.LSTM) -> bool:
    plain = lstm.num_layers == 1 and lstm.bias and lstm.batch_first and not lstm.bidirectional and not lstm.proj_size
    return plain and all(map(int8.fits, lstm.parameters()))


class Lstm16(nn.LSTM):
    """An LSTM for inference; inputs, outputs and states are float32."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__(lstm.input_size, lstm.hidden_size, batch_first=True, device="meta")
        self._parameters, self._flat_weights = lstm._parameters, lstm._flat_weights
        w_ih, w_hh, *self._biases = (weight.detach().bfloat16() for weight in lstm.parameters())
        # The layout of the weights depends on the input's size, not on the number of rows and frames.
        shape = [1, 1, self.input_size]
        self._packed = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
            w_ih, w_hh, self.hidden_size, False, True, False, shape
        )

    def forward(self, x: Any, hx: Any = None) -> Any:
        """As of `nn.LSTM`: x `(B, T, D)`, and a state of `(1, B, H)` twice or None."""
        y, state = self.run(x.bfloat16().transpose(0, 1), None if hx is None else (hx[0][0], hx[1][0]))
        return y.transpose(0, 1).float(), (state[0][None].float(), state[1][None].float())

    def run(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs `(T, B, H)` in bfloat16 for `x` `(T, B, D)` in bfloat16, and the last h and c `(B, H)`."""
        if state is None:
            state = (x.new_zeros(x.shape[1], self.hidden_size),) * 2
        h, c = (part.bfloat16().contiguous() for part in state)
        settings: tuple[Any, ...] = (False, [], _LSTM, self.hidden_size, 1, True, False, False, False)
        y, h, c, _ = torch.ops.aten.mkldnn_rnn_layer(x.contiguous(), *self._packed, *self._biases, h, c, *settings)
        return y, (h, c)


class Bidirectional16:
    """A forward and a backward LSTM over rows with lengths and settled frames of their own."""

    def __init__(self, forward: Lstm16, backward: Lstm16) -> None:
        self.forward, self.backward = forward, backward

    def run(
        self, x: Tensor, lengths: Tensor, hidden: tuple[Tensor, Tensor], settled: int | Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """As `Bidirectional8.run`."""
        batch, frames, _ = x.shape
        x = x.bfloat16().transpose(0, 1).contiguous()  # (T, B, D)

        turned, rows = int8.reversal(lengths, frames), torch.arange(batch)
        behind = self.backward.run(x[turned, rows], None)[0][turned, rows]

        # Cut where the state of a row is wanted. States are kept in bfloat16, so cuts change nothing.
        counts, state, ahead, first = torch.as_tensor(settled).expand(batch), hidden, [], 0
        after = [part.clone() for part in hidden]
        for end in [*counts[counts > 0].unique().tolist(), frames]:
            y, state = self.forward.run(x[first:end], state)
            ahead.append(y)
            for kept, part in zip(after, state, strict=True):
                kept.copy_(torch.where((counts == end)[:, None], part, kept))
            first = end
        together = torch.cat(ahead).transpose(0, 1).float()
        return together, behind.transpose(0, 1).float(), (after[0], after[1])
