"""Scores of location-aware attention for many hypotheses, a few at a time.

With hundreds of hypotheses the tensor `(N, T, size)` before the tanh is far larger than a processor's cache, and the
time goes into writing and reading it at each step. In blocks that fit into the cache it stays there. The filters are
a matrix product: oneDNN would compile a convolution for each number of hypotheses and frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.model import fast

__all__ = ["applies", "scores"]

_CACHED = 2**17  # numbers in a block: half a megabyte


def applies(query: Tensor) -> bool:
    """Whether to use `scores` for queries `(N, size)`: at inference on a CPU in float32."""
    if len(query) == 1:  # plain PyTorch is faster
        return False
    plain = query.device.type == "cpu" and query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and fast.enabled()


def scores(
    query: Tensor,
    keys: Tensor,
    owners: Tensor,
    previous: Tensor,
    filters: Tensor,
    location_weight: Tensor,
    score_weight: Tensor,
) -> Tensor:
    """Scores v · tanh(q + k + U f) up to a constant; f is the previous alignment after the filters.

    Args:
        query: `(N, size)`, projected.
        keys: `(B, T, size)`, projected.
        owners: `(N,)`, the row of `keys` that each query belongs to.
        previous: `(N, T)`, alignments.
        filters: `(C, 1, W)`, W odd.
        location_weight: `(size, C)`.
        score_weight: `(1, size)`.

    Returns:
        `(N, T)`.
    """
    (_, frames, size), count = keys.shape, len(query)
    # tanh(x) is 2 sigmoid(2 x) - 1, and sigmoid is much faster. Softmax ignores the -1, which is in every score.
    query, location_weight, vector = 2 * query[:, None], 2 * location_weight.t(), 2 * score_weight[0]
    band = band_matrix(filters, frames) if frames <= filters.shape[-1] else None
    location = None if band is None else (previous @ band).unflatten(1, (frames, -1))
    found = query.new_empty(count, frames)
    block = max(1, _CACHED // max(1, frames * size))
    for start in range(0, count, block):
        rows = slice(start, start + block)
        hidden = keys.index_select(0, owners[rows])
        seen = filtered(previous[rows], filters) if location is None else location[rows]
        hidden.flatten(0, 1).addmm_(seen.flatten(0, 1), location_weight, beta=2)
        hidden.add_(query[rows]).sigmoid_()
        found[rows] = (hidden.flatten(0, 1) @ vector).view(-1, frames)
    return found


def filtered(x: Tensor, filters: Tensor) -> Tensor:
    """Rows `(N, T)`, zero beyond both ends, after filters `(C, 1, W)`, W odd: `(N, T, C)`."""
    (count, frames), width = x.shape, filters.shape[-1]
    windows = nn.functional.pad(x, (width // 2, width // 2)).unfold(1, width, 1)
    return (windows.reshape(-1, width) @ filters[:, 0].t()).view(count, frames, -1)


def band_matrix(filters: Tensor, frames: int) -> Tensor:
    """All shifts of the filters as a matrix `(T, T * C)`, for a product with rows `(N, T)`; faster for a small T."""
    width = filters.shape[-1]
    taps = nn.functional.pad(filters[:, 0], (frames - 1, frames - 1)).unfold(1, frames, 1)  # (C, W + T - 1, T)
    return taps[:, width // 2 : width // 2 + frames].permute(1, 2, 0).flip(1).flatten(1)
