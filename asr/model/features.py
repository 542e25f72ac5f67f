"""Log-mel features, normalised by statistics stored with the model.

Frames are not centred: frame t covers the samples [t * hop_length, t * hop_length + n_fft). The features of a stream
therefore do not depend on the sizes of its chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig
from asr.model.mel import mel_filter_bank

__all__ = ["FeatureState", "LogMel", "mask_beyond"]

# Added to the power of every mel bin: about one 16-bit quantisation step, so that the log of digital silence is finite.
_FLOOR = 1e-7


@dataclass(frozen=True)
class FeatureState:
    """Samples carried over to the next frame: `(B, n)` with n < n_fft."""

    pending: Tensor


def mask_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Set the frames of `x` `(B, T, D)` at and beyond each row's length `(B,)` to zero."""
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x * inside[..., None].to(x.dtype)


class LogMel(nn.Module):
    """Waveform `(B, samples)` to normalised log-mel features `(B, T, n_mels)`."""

    mean: Tensor
    std: Tensor
    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        # Derived from the config, so not stored with the weights.
        filters = mel_filter_bank(config.sample_rate, config.n_fft, config.n_mels, config.f_min, config.f_max)
        self.register_buffer("window", torch.hann_window(config.win_length), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("std", torch.ones(config.n_mels))

    def lengths(self, samples: Tensor) -> Tensor:
        """Number of frames `(B,)` of waveforms of `samples` `(B,)`; 0 for a waveform shorter than n_fft."""
        frames = (samples - self.config.n_fft) // self.config.hop_length + 1
        return frames.clamp(min=0)

    @property
    def floor(self) -> float:
        """Log-mel value, before normalisation, of a bin without any power."""
        return math.log(_FLOOR)

    def level(self, features: Tensor) -> Tensor:
        """Level in decibels `(B, T)` of normalised features `(B, T, n_mels)`: the mean over the mel bins."""
        return (features.float() * self.std + self.mean).mean(dim=-1) * (10 / math.log(10))

    def unnormalised(self, waveform: Tensor) -> Tensor:
        """Log-mel features `(B, T, n_mels)` before normalisation, in float32 whatever the autocast state."""
        if waveform.shape[-1] < self.config.n_fft:
            return waveform.new_zeros(waveform.shape[0], 0, self.config.n_mels)
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(),
                self.config.n_fft,
                self.config.hop_length,
                self.config.win_length,
                self.window,
                center=False,
                return_complex=True,
            )  # (B, n_fft // 2 + 1, T)
            mel = spectrum.abs().square().transpose(1, 2) @ self.filters
            return (mel + _FLOOR).log()

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            waveform: `(B, N)`, 16 kHz mono, padded at the end.
            samples: `(B,)`, length of each row before padding.

        Returns:
            features `(B, T, n_mels)`, zero beyond each row's length, and feature_lengths `(B,)`.
        """
        feature_lengths = self.lengths(samples)
        features = (self.unnormalised(waveform) - self.mean) / self.std
        return mask_beyond(features, feature_lengths), feature_lengths

    def initial_state(self, batch_size: int) -> FeatureState:
        return FeatureState(self.mean.new_zeros(batch_size, 0))

    def step(self, waveform: Tensor, state: FeatureState) -> tuple[Tensor, FeatureState]:
        """Features `(B, t, n_mels)` of the frames that become complete with `waveform` `(B, n)`, and the next state."""
        waveform = torch.cat([state.pending, waveform], dim=1)
        frames = max(0, (waveform.shape[1] - self.config.n_fft) // self.config.hop_length + 1)
        if frames == 0:
            return waveform.new_zeros(waveform.shape[0], 0, self.config.n_mels), FeatureState(waveform)
        features = (self.unnormalised(waveform) - self.mean) / self.std
        # Cloned, so that the state does not keep the whole chunk in memory.
        return features, FeatureState(waveform[:, frames * self.config.hop_length :].clone())
