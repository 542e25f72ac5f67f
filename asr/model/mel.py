"""Mel filter banks: Slaney's variant, as in librosa, and in torchaudio with `slaney`; and SpeechBrain's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["hz_to_mel", "mel_filter_bank", "mel_to_hz", "symmetric_filter_bank"]

# Linear up to 1000 Hz, logarithmic above: 27 mels for each factor of 6.4.
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def hz_to_mel(hz: float) -> float:
    """Frequency in Hz to mel."""
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def mel_to_hz(mel: Tensor) -> Tensor:
    """Mels, of any shape, to frequencies in Hz."""
    logarithmic = _BREAK_HZ * torch.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return torch.where(mel >= _BREAK_MEL, logarithmic, _HZ_PER_MEL * mel)


def mel_filter_bank(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular filters of equal area, `(n_fft // 2 + 1, n_mels)`, for power spectra.

    Operations and their order are those of torchaudio, so that the float32 values are identical.
    """
    bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    edges = mel_to_hz(torch.linspace(hz_to_mel(f_min), hz_to_mel(f_max), n_mels + 2))
    widths = edges[1:] - edges[:-1]
    slopes = edges[None] - bins[:, None]  # (bins, n_mels + 2)
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters * (2.0 / (edges[2:] - edges[:n_mels]))


def symmetric_filter_bank(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Triangular filters of peak 1, `(n_fft // 2 + 1, n_mels)`, for power spectra, as in SpeechBrain.

    Centres are evenly spaced on HTK's mel scale, 2595 log10(1 + f / 700). Each filter is as wide above its centre as
    below.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (f_min, f_max))
    edges = 700 * (10 ** (torch.linspace(low, high, n_mels + 2) / 2595) - 1)
    widths, centres = (edges[1:] - edges[:-1])[:-1], edges[1:-1]
    bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    slopes = (bins[:, None] - centres) / widths
    return torch.minimum(1 + slopes, 1 - slopes).clamp(min=0)
