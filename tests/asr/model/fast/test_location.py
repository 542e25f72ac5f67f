"""Location-aware attention computed in blocks equals plain PyTorch for every block size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr.config import AttentionConfig
from asr.model.attention import AttentionState, Memory, build_attention
from asr.model.fast import fast_paths, location
from tests.support.kernels import compiled_kernels, needs_onednn

WIDTH = 7


@pytest.mark.parametrize("frames", [1, 5, WIDTH, WIDTH + 1, 40], ids=lambda frames: f"{frames} frames")
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
        assert location.applies(torch.empty(len(owners), 8))
        torch.testing.assert_close(attended(memory), plain, atol=1e-6, rtol=1e-5)


def test_only_several_hypotheses_of_inference_are_computed_in_blocks() -> None:
    several, single = torch.empty(2, 128), torch.empty(1, 128)
    with torch.inference_mode():
        assert location.applies(several)
        assert not location.applies(single)
        with fast_paths(False):
            assert not location.applies(several)
    assert not location.applies(several)


@needs_onednn
@torch.inference_mode()
def test_no_kernel_is_compiled_for_another_number_of_hypotheses(capfd: pytest.CaptureFixture[str]) -> None:
    """The filters were a convolution, for which oneDNN compiled a kernel at most steps of a search.

    The number of hypotheses and of frames changes from step to step and from file to file, and compiling took several
    times as long as the convolution.
    """
    attention = build_attention(
        6, 10, AttentionConfig("location", size=8, location_channels=3, location_width=9)
    ).eval()
    with compiled_kernels(capfd) as compiled:
        for count, frames in ((2, 5), (7, 23), (20, 41)):
            memory = attention.prepare(torch.randn(1, frames, 10), torch.tensor([frames]))
            state = AttentionState(torch.rand(count, 1, frames))
            attention(torch.randn(count, 6), memory, state)
    assert not [line for line in compiled if ",convolution," in line]
