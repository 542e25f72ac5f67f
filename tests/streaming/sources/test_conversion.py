"""Conversion of a source to 16 kHz mono, independently of its chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr.audio import load
from asr.errors import AudioError
from streaming.sources.conversion import Conversion
from tests.support.live_audio import cut, noise


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 3)])
@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("size", [1, 441, None])
def test_chunks_equal_the_whole(rate: int, channels: int, cancelling: bool, size: int | None) -> None:
    """Chunks equal the whole, even with channels that cancel from the middle on, where the downmix changes."""
    values = noise(0.12, rate, channels)
    if cancelling and channels == 2:
        values[len(values) // 2 :, 1] = -values[len(values) // 2 :, 0]
    conversion = Conversion(rate, channels, "test")
    chunks = [conversion.step(chunk) for chunk in cut(values, size)]
    heard = torch.cat([*chunks, conversion.flush()])
    assert torch.allclose(heard, load(values, sample_rate=rate), atol=1e-6)


def test_no_audio_gives_no_samples() -> None:
    conversion = Conversion(48_000, 2, "test")
    assert len(conversion.step(np.zeros((0, 2), np.float32))) == len(conversion.flush()) == 0


def test_a_rate_out_of_bounds_names_the_source() -> None:
    with pytest.raises(AudioError, match=r"^microphone 'USB': its sample rate is 5 Hz"):
        Conversion(5, 1, "microphone 'USB'")
