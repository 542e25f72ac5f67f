"""Muon for the matrices of LSTMs."""

from __future__ import annotations

import torch

from asr.training.muon import GateMuon, orthogonal


def test_singular_values_come_near_one_and_directions_stay() -> None:
    """For wide and tall matrices with condition number 100, singular values come near one, and directions stay."""
    torch.manual_seed(0)
    for rows, columns in ((8, 20), (20, 8)):
        left, _, right = torch.linalg.svd(torch.randn(3, rows, columns), full_matrices=False)
        values = torch.logspace(0, -2, 8)
        found = orthogonal(left * values @ right)
        seen = left.mT @ found @ right.mT  # diagonal where the singular vectors are the same
        diagonal = seen.diagonal(dim1=1, dim2=2)
        assert ((diagonal > 0.3) & (diagonal < 1.3)).all()
        torch.testing.assert_close(seen, torch.diag_embed(diagonal), atol=0.1, rtol=0)


def test_a_gate_never_sees_the_others() -> None:
    """The first gate's step does not depend on the gradients of the other three."""
    torch.manual_seed(0)
    gradient = torch.randn(12, 5)
    stepped = []
    for strength in (1.0, 100.0):
        weights = torch.nn.Parameter(torch.zeros(12, 5))
        weights.grad = torch.cat([gradient[:3], strength * gradient[3:]])
        optimiser = GateMuon([weights])
        optimiser.param_groups[0]["lr"] = 0.1
        optimiser.step()
        stepped.append(weights.detach()[:3])
    assert stepped[0].abs().max() > 0.01
    torch.testing.assert_close(stepped[0], stepped[1])
