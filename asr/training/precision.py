"""The number format of training: bfloat16 where the device has kernels for it, float32 elsewhere."""

from __future__ import annotations

import torch

__all__ = ["autocast", "has_bfloat16"]


def has_bfloat16(device: str) -> bool:
    """Whether to train in bfloat16 on a device: "cpu", "cuda" or "auto", which is a GPU if there is one.

    oneDNN needs AVX-512 for it on x86. Without its kernels an LSTM in bfloat16 raises a RuntimeError, and other
    products take some forty times as long as in float32.
    """
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision in bfloat16 within a block, where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device.type))
