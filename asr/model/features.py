"""Log-mel features on torchaudio, uncentred so that they stream, normalised by statistics kept with the model.

Frame t covers the samples [t * hop_length, t * hop_length + n_fft), so that no frame depends on samples that come after
it, and cutting the waveform differently changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig

__all__ = ["FeatureState", "LogMel", "mask_beyond"]

# About the power of one 16-bit quantisation step: what digital silence and a quiet room are lifted to.
_FLOOR = 1e-7


@dataclass(frozen=True)
class FeatureState:
    """Samples that a further frame still needs: `(B, n)` with n < n_fft."""

    pending: Tensor


def mask_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Set the frames of `x` `(B, T, D)` at and beyond each row's length `(B,)` to zero."""
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x * inside[..., None].to(x.dtype)


class LogMel(nn.Module):
    """Waveform `(B, samples)` to normalised log-mel features `(B, T, n_mels)`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.config = config
        self.mel = MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            f_min=config.f_min,
            f_max=config.f_max,
            center=False,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
        )
        for name, _ in list(self.mel.named_buffers()):  # derived from the config, so not stored with the weights
            module, _, leaf = name.rpartition(".")
            self.mel.get_submodule(module)._non_persistent_buffers_set.add(leaf)
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("std", torch.ones(config.n_mels))

    def lengths(self, samples: Tensor) -> Tensor:
        """Number of frames `(B,)` that waveforms of `samples` `(B,)` give; none where it is shorter than n_fft."""
        frames = (samples - self.config.n_fft) // self.config.hop_length + 1
        return frames.clamp(min=0)

    @property
    def floor(self) -> float:
        """The value, before normalisation, of a mel bin without any power."""
        return math.log(_FLOOR)

    def unnormalised(self, waveform: Tensor) -> Tensor:
        """Log-mel features `(B, T, n_mels)` before normalisation, in float32 whatever the autocast state."""
        if waveform.shape[-1] < self.config.n_fft:
            return waveform.new_zeros(waveform.shape[0], 0, self.config.n_mels)
        with torch.autocast(waveform.device.type, enabled=False):
            mel: Tensor = self.mel(waveform.float())
            return (mel + _FLOOR).log().transpose(1, 2)

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            waveform: `(B, N)`, 16 kHz mono, padded at the end.
            samples: `(B,)`, how many of the N samples are real.

        Returns:
            features `(B, T, n_mels)`, zero beyond each row's length, and feature_lengths `(B,)`.
        """
        feature_lengths = self.lengths(samples)
        features = (self.unnormalised(waveform) - self.mean) / self.std
        return mask_beyond(features, feature_lengths), feature_lengths

    def initial_state(self, batch_size: int) -> FeatureState:
        return FeatureState(self.mean.new_zeros(batch_size, 0))

    def step(self, waveform: Tensor, state: FeatureState) -> tuple[Tensor, FeatureState]:
        """The frames that `waveform` `(B, n)` completes, any n: features `(B, t, n_mels)` and the next state."""
        waveform = torch.cat([state.pending, waveform], dim=1)
        frames = max(0, (waveform.shape[1] - self.config.n_fft) // self.config.hop_length + 1)
        if frames == 0:
            return waveform.new_zeros(waveform.shape[0], 0, self.config.n_mels), FeatureState(waveform)
        features = (self.unnormalised(waveform) - self.mean) / self.std
        # A clone, so that the state does not keep the whole chunk's memory alive.
        return features, FeatureState(waveform[:, frames * self.config.hop_length :].clone())
