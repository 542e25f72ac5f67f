"""Audio for live sources, and its blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from streaming.sources.base import AudioSource


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels)).astype(np.float32)


def cut(values: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
    """Cut into blocks of a fixed size or of random sizes."""
    generator, start = np.random.default_rng(1), 0
    while start < len(values):
        count = size or int(generator.integers(1, 3000))
        yield values[start : start + count]
        start += count


def whole(source: AudioSource) -> torch.Tensor:
    chunks = list(source)
    assert all(len(chunk) and chunk.dtype == torch.float32 and chunk.ndim == 1 for chunk in chunks)
    return torch.cat(chunks)
