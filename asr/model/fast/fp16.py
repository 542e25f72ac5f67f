"""Weights packed for inference on a CPU: stored in float16, computed in float32.

A search or a stream multiplies few rows with large matrices, and most of the time goes into reading the matrices.
Float16, in which checkpoints are stored, halves the bytes. Only matrices that float16 holds exactly are packed, so that
results differ only by the rounding of sums. The kernels are FBGEMM's (Khudia et al. 2021), for x86 with AVX2; on other
machines nothing is packed.
"""

from __future__ import annotations

import platform
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asr.model import fast

__all__ = ["available", "pack"]

M = TypeVar("M", bound=nn.Module)

# With more rows than this, time steps included, oneDNN's LSTM is faster, though it reorders its weights at each call.
_LSTM_ROWS = 160
_CELL_ROWS = 160  # the same for a cell whose matrices fit into the cache, as a GRU's do


def pack(module: M) -> M:
    """Replace linear layers with several outputs, LSTMs and cells of a module by packed ones, in place.

    Afterwards the module is for inference in float32 only. Nothing changes where the kernels are missing or fast paths
    are off.
    """
    if not (fast.enabled() and available()):
        return module
    for name, child in module.named_children():
        for kind, packed in _PACKED.items():
            if (
                type(child) is kind
                and _plain(child)
                and all(_fits(weight) for weight in child.parameters() if weight.dim() == 2)
            ):
                setattr(module, name, packed(child))
                break
        else:
            pack(child)
    return module


def available() -> bool:
    """Whether this machine has the kernels; on ARM, PyTorch lists the engine but lacks some of them."""
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return on_x86 and torch.backends.quantized.engine in ("x86", "fbgemm")


def _plain(part: nn.Module) -> bool:
    """Whether packing is supported and worth it: no rarer kinds of LSTM, no linear layer with a single output."""
    if isinstance(part, nn.LSTM):
        return part.batch_first and part.bias and not part.bidirectional and not part.proj_size
    return not isinstance(part, nn.Linear) or part.out_features > 1


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.equal(weight, weight.half().float())


class _Linear(nn.Linear):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self._packed = _prepack(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return y


class _LSTMCell(nn.LSTMCell):
    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__(cell.input_size, cell.hidden_size, device="meta")
        self._parameters = cell._parameters
        self._packed = [_prepack(cell.weight_ih, cell.bias_ih), _prepack(cell.weight_hh, cell.bias_hh)]

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if hx is None:
            hx = (x.new_zeros(len(x), self.hidden_size),) * 2
        found: tuple[Tensor, Tensor] = torch.ops.quantized.quantized_lstm_cell_dynamic(
            x, list(hx), *self._packed, self.bias_ih, self.bias_hh
        )
        return found


class _GRUCell(nn.GRUCell):
    def __init__(self, cell: nn.GRUCell) -> None:
        super().__init__(cell.input_size, cell.hidden_size, device="meta")
        self._parameters = cell._parameters
        self._packed = [_prepack(cell.weight_ih, cell.bias_ih), _prepack(cell.weight_hh, cell.bias_hh)]

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        if len(x) > _CELL_ROWS:
            return nn.GRUCell.forward(self, x, hx)
        h = x.new_zeros(len(x), self.hidden_size) if hx is None else hx
        found: Tensor = torch.ops.quantized.quantized_gru_cell_dynamic(x, h, *self._packed, self.bias_ih, self.bias_hh)
        return found


class _LSTM(nn.LSTM):
    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__(lstm.input_size, lstm.hidden_size, lstm.num_layers, batch_first=True, device="meta")
        self._parameters, self._flat_weights = lstm._parameters, lstm._flat_weights
        self._packed = [
            torch.ops.quantized.make_quantized_cell_params_fp16(_prepack(w_ih, b_ih), _prepack(w_hh, b_hh))
            for w_ih, w_hh, b_ih, b_hh in lstm.all_weights
        ]

    def forward(self, x: Any, hx: Any = None) -> Any:
        if x.shape[0] * x.shape[1] > _LSTM_ROWS:
            found: tuple[Tensor, tuple[Tensor, Tensor]] = nn.LSTM.forward(self, x, hx)
            return found
        if hx is None:
            hx = (x.new_zeros(self.num_layers, len(x), self.hidden_size),) * 2
        y, h, c = torch.quantized_lstm(
            x, hx, self._packed, True, self.num_layers, 0.0, False, False, True, dtype=torch.float16, use_dynamic=True
        )
        return y, (h, c)


def _prepack(weight: Tensor, bias: Tensor | None) -> object:
    return torch.ops.quantized.linear_prepack_fp16(weight.detach(), None if bias is None else bias.detach())


_PACKED: dict[type[nn.Module], type] = {
    nn.Linear: _Linear,
    nn.LSTMCell: _LSTMCell,
    nn.GRUCell: _GRUCell,
    nn.LSTM: _LSTM,
}
