"""Layer growth: the weights of a shallow encoder with a high time reduction initialise a deeper, finer one.

After Zeyer et al. 2018, "Improved training of end-to-end attention models for speech recognition": attention converges
more easily with few layers and a high time reduction. The decoder, the CTC head and the layers of both encoders keep
their weights; new layers on top start from their initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["carried_over", "grow"]

_WEIGHTS = ("state_dict", "current_model_state")  # with weight averaging, the second holds the trained weights


def grow(
    saved: dict[str, Any],
    joins: Sequence[int],
    new_joins: Sequence[int],
    fresh: Mapping[str, Tensor],
    groups: Sequence[Sequence[str]],
) -> None:
    """Convert a saved run to another encoder, in place.

    Where a layer joins another number of frames, its input weights are resampled along time, so that its output hardly
    changes for slowly changing frames. The optimiser keeps its state for weights that are copied unchanged.

    Args:
        saved: a Lightning checkpoint.
        joins: of the saved encoder.
        new_joins: of the new encoder; at least as many layers.
        fresh: state dict of a new module with that encoder, which gives names and initial weights.
        groups: parameter names of the new module in the order of its optimiser's groups.
    """
    for key in _WEIGHTS:
        if key in saved:
            saved[key] = carried_over(saved[key], joins, new_joins, fresh, "model.")
    (optimiser,) = saved["optimizer_states"]
    before = {name: i for i, name in enumerate(chain(*(group["param_names"] for group in optimiser["param_groups"])))}
    after = {name: i for i, name in enumerate(chain(*groups))}
    kept = (before.keys() & after.keys()) - _changed(joins, new_joins, "model.").keys()
    known = optimiser["state"]
    optimiser["state"] = {after[name]: known[before[name]] for name in sorted(kept) if before[name] in known}
    for group, names in zip(optimiser["param_groups"], groups, strict=True):
        group["param_names"], group["params"] = list(names), [after[name] for name in names]


def carried_over(
    weights: Mapping[str, Tensor],
    joins: Sequence[int],
    new_joins: Sequence[int],
    fresh: Mapping[str, Tensor],
    prefix: str = "",
) -> dict[str, Tensor]:
    """Weights of a model converted to another encoder; arguments as in `grow`, names begin with `prefix`."""
    grown = {name: weights.get(name, first) for name, first in fresh.items()}
    for name, (old, new) in _changed(joins, new_joins, prefix).items():
        if name in grown:
            grown[name] = _resampled(grown[name], old, new)
    return grown


def _changed(joins: Sequence[int], new_joins: Sequence[int], prefix: str) -> dict[str, tuple[int, int]]:
    """Input weights of layers whose number of joined frames changes, with the old and new number."""
    return {
        f"{prefix}encoder.layers.{i}.{direction}_lstm.weight_ih_l0": (old, new)
        for i, (old, new) in enumerate(zip(joins, new_joins, strict=False))
        if old != new
        for direction in ("forward", "backward")
    }


def _resampled(weight: Tensor, old: int, new: int) -> Tensor:
    """Weights `(H, old * D)` of `old` joined frames as `(H, new * D)`: each new frame takes the weights it overlaps."""
    edges = torch.arange(max(old, new) + 1, dtype=torch.float64)
    low = torch.maximum(edges[:new, None] / new, edges[None, :old] / old)
    high = torch.minimum(edges[1 : new + 1, None] / new, edges[None, 1 : old + 1] / old)
    share = (high - low).clamp(min=0) * old  # (new, old): overlap, as a share of an old frame
    blocks = weight.unflatten(1, (old, -1))
    return torch.einsum("no,hod->hnd", share.to(weight), blocks).flatten(1)
