"""Layer and batch normalisation over the valid frames of padded sequences."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

__all__ = ["Normalisation"]


class Normalisation(nn.Module):
    """`(B, T, size)` to the same shape.

    Batch normalisation (Ioffe and Szegedy 2015) computes its statistics over valid frames only, so that padding does
    not change the output. In evaluation it uses the running statistics, so that the output of chunks is that of the
    whole utterance. A batch that is not finite does not change the running statistics.
    """

    def __init__(self, kind: Literal["none", "layer", "batch"], size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.LayerNorm(size) if kind == "layer" else None
        self.batch = nn.BatchNorm1d(size) if kind == "batch" else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise; frames beyond `lengths` `(B,)` are invalid, none if it is None."""
        if self.layer is not None:
            layered: Tensor = self.layer(x)
            return layered.to(x.dtype)
        if self.batch is None:
            return x
        if lengths is None or not self.training:
            flat: Tensor = self.batch(x.flatten(0, 1))
            return flat.view_as(x)
        inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        y = torch.zeros_like(x)
        y[inside] = self._normalise(x[inside], self.batch).to(x.dtype)
        return y

    @staticmethod
    def _normalise(x: Tensor, batch: nn.BatchNorm1d) -> Tensor:
        """Apply `batch` to `x` `(frames, size)` in training; running statistics are updated if they stay finite."""
        running = [cast(Tensor, batch.running_mean), cast(Tensor, batch.running_var)]
        mean, variance = updated = [statistic.clone() for statistic in running]
        momentum = cast(float, batch.momentum)
        y = nn.functional.batch_norm(x, mean, variance, batch.weight, batch.bias, True, momentum, batch.eps)
        finite = torch.stack([statistic.isfinite().all() for statistic in updated]).all()
        for statistic, after in zip(running, updated, strict=True):
            statistic.copy_(torch.where(finite, after, statistic))
        return y
