"""A source's own sample rate and channels → 16 kHz mono."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from asr.audio import Resampler
from asr.audio.pcm import Downmix, DownmixState

__all__ = ["Conversion"]


class Conversion:
    """Conversion of a stream to 16 kHz mono; the result is the same however the stream is cut into chunks.

    Args:
        sample_rate: of the stream, in Hz.
        channels: of the stream; their mean is used or, where they cancel, the loudest of them.
        source: the name for errors.

    Raises:
        AudioError: the rate is out of bounds.
    """

    def __init__(self, sample_rate: int, channels: int, source: object) -> None:
        self._resampler = Resampler(sample_rate, source)
        self._downmix = Downmix(sample_rate, channels)
        self._state = DownmixState.start(channels)

    def step(self, frames: NDArray[np.float32]) -> torch.Tensor:
        """Take the next `frames` `(frames, channels)`; return the samples ready at 16 kHz, `(samples,)`, if any."""
        mono, self._state = self._downmix.step(frames, self._state)
        return self._resampler.step(torch.from_numpy(mono))

    def flush(self) -> torch.Tensor:
        """End the stream; return the samples `(samples,)` that were waiting for later input."""
        mono = self._downmix.flush(self._state)
        return torch.cat((self._resampler.step(torch.from_numpy(mono)), self._resampler.flush()))
