"""Layer and batch normalisation over the valid frames of padded sequences."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Normalisation"]


class Normalisation(nn.Module):
    """`(B, T, size)` to the same shape.

    Batch normalisation (Ioffe and Szegedy 2015) takes its statistics from valid frames alone, so that padding changes
    neither them nor any output; in evaluation it uses the running ones and is the same for a chunk as for the whole.
    """

    def __init__(self, kind: Literal["none", "layer", "batch"], size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.LayerNorm(size) if kind == "layer" else None
        self.batch = nn.BatchNorm1d(size) if kind == "batch" else None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise; `lengths` `(B,)` says which frames are valid, all of them if None."""
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
        y[inside] = self.batch(x[inside]).to(x.dtype)
        return y
