"""Layer growth: what was learned with a shallow, coarse encoder, carried over into a deeper, finer one.

After Zeyer et al. 2018, "Improved training of end-to-end attention models for speech recognition": with few layers and
a high time reduction attention finds its way more easily. The decoder, the CTC head and the layers that both encoders
have keep their weights; new layers, on top, start fresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["carried_over", "grow"]

_WEIGHTS = ("state_dict", "current_model_state")  # in a run that averages, the second holds the trained weights


def grow(
    saved: dict[str, Any],
    joins: Sequence[int],
    new_joins: Sequence[int],
    fresh: Mapping[str, Tensor],
    groups: Sequence[Sequence[str]],
) -> None:
    """Turn the saved run of one encoder into that of another, in place.

    A layer that now joins another number of frames gets input weights resampled along time, so that from frames that
    hardly change it computes what it did. The optimiser keeps what it knows of each weight that is carried over as it
    is, and begins anew with the others.

    Args:
        saved: a checkpoint of lightning's.
        joins: of the encoder that it holds.
        new_joins: of the encoder that it is to hold; no fewer.
        fresh: the state of a new module with that encoder: names, and the first weights of new layers.
        groups: names of the new module's weights in the order of its optimiser's groups.
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
    """The weights of one encoder's model as those of another's; arguments as in `grow`, `prefix` before all names."""
    grown = {name: weights.get(name, first) for name, first in fresh.items()}
    for name, (old, new) in _changed(joins, new_joins, prefix).items():
        if name in grown:
            grown[name] = _resampled(grown[name], old, new)
    return grown


def _changed(joins: Sequence[int], new_joins: Sequence[int], prefix: str) -> dict[str, tuple[int, int]]:
    """The input weights of layers that join another number of frames, with these numbers."""
    return {
        f"{prefix}encoder.layers.{i}.{direction}_lstm.weight_ih_l0": (old, new)
        for i, (old, new) in enumerate(zip(joins, new_joins, strict=False))
        if old != new
        for direction in ("forward", "backward")
    }


def _resampled(weight: Tensor, old: int, new: int) -> Tensor:
    """Weights `(H, old * D)` of `old` joined frames as `(H, new * D)`: each new frame takes those that it lies over."""
    edges = torch.arange(max(old, new) + 1, dtype=torch.float64)
    low = torch.maximum(edges[:new, None] / new, edges[None, :old] / old)
    high = torch.minimum(edges[1 : new + 1, None] / new, edges[None, 1 : old + 1] / old)
    share = (high - low).clamp(min=0) * old  # (new, old): of each old frame's weights
    blocks = weight.unflatten(1, (old, -1))
    return torch.einsum("no,hod->hnd", share.to(weight), blocks).flatten(1)
