"""Location-aware attention computed in blocks equals plain PyTorch for every block size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr.config import AttentionConfig
from asr.model.attention import AttentionState, Memory, build_attention
from asr.model.fast import fast_paths, location

WIDTH = 7


@pytest.mark.parametrize("frames", [1, 5, 2 * WIDTH, 2 * WIDTH + 1, 40], ids=lambda frames: f"{frames} frames")
@pytest.mark.parametrize("counts", [[3, 3], [4, 1]], ids=["as many each", "more of one"])
@torch.inference_mode()
def test_blocks_change_nothing(frames: int, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(frames)
    config = AttentionConfig("location", size=8, location_channels=3, location_width=WIDTH)
    attention = build_attention(6, 10, config).eval()
    memory = attention.prepare(torch.randn(2, frames, 10), torch.tensor([frames, max(1, frames - 2)]))
    owners = torch.tensor([0] * counts[0] + [1] * counts[1])
    memory = memory.of(owners)
    query, previous = torch.randn(len(owners), 6), torch.rand(len(owners), 1, frames).softmax(-1)

    def attended(memory: Memory) -> tuple[Tensor, Tensor]:
        context, state = attention(query, memory, AttentionState(previous))
        return context, state.alignment

    with fast_paths(False):
        plain = attended(memory)
    for cached in (1, 2 * frames * 8, 10**6):  # a row in each block, two, all
        monkeypatch.setattr(location, "_CACHED", cached)
        if cached < 10**6:
            assert location.applies(torch.empty(len(owners), 8), frames)
        torch.testing.assert_close(attended(memory), plain, atol=1e-6, rtol=1e-5)


def test_only_large_scores_of_inference_are_computed_in_blocks() -> None:
    large, small = torch.empty(640, 128), torch.empty(8, 128)
    with torch.inference_mode():
        assert location.applies(large, 100)
        assert not location.applies(small, 100)
        with fast_paths(False):
            assert not location.applies(large, 100)
    assert not location.applies(large, 100)
