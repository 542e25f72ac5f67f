"""Augmentation on whole batches, on the device: speed, gain, noise, bandwidth, and SpecAugment."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.training.config import AugmentConfig

__all__ = ["limit_bandwidth", "mask_spectrum", "perturb_waveform"]


def perturb_waveform(
    waveform: Tensor, samples: Tensor, noise: Tensor | None, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Change the speed of a batch, the gain of each row, and add noise to some.

    Args:
        waveform: `(B, N)`.
        samples: `(B,)`, real samples of each row.
        noise: `(M,)` of background noise to cut from, or None for none.
        config: ranges and probabilities.

    Returns:
        The new waveform `(B, N')` and samples `(B,)`. Speed perturbation (Ko et al. 2015) moves the pitch too.
    """
    batch, device = waveform.shape[0], waveform.device
    speed = config.speeds[int(torch.randint(len(config.speeds), ()))] if config.speeds else 1.0
    if speed != 1.0:
        waveform = torch.nn.functional.interpolate(
            waveform[:, None], size=int(waveform.shape[1] / speed), mode="linear", align_corners=True
        )[:, 0]
        samples = (samples / speed).long().clamp(max=waveform.shape[1])
    inside = torch.arange(waveform.shape[1], device=device) < samples[:, None]
    if noise is not None and config.noise_probability > 0:
        starts = torch.randint(noise.numel(), (batch, 1), device=device)
        cut = noise[(starts + torch.arange(waveform.shape[1], device=device)) % noise.numel()] * inside
        low, high = config.noise_snr_db
        snr_db = low + (high - low) * torch.rand(batch, 1, device=device)
        # Energies of a row's own samples; the bound keeps a cut of silence from being blown up.
        speech, other = (x.square().sum(1, keepdim=True) for x in (waveform * inside, cut))
        ratio = speech / other.clamp(min=1e-10 * waveform.shape[1]) * 10 ** (-snr_db / 10)
        chosen = torch.rand(batch, 1, device=device) < config.noise_probability
        waveform = waveform + cut * (ratio.sqrt() * chosen)
    gain_db = config.gain_db * (2 * torch.rand(batch, 1, device=device) - 1)
    return waveform * 10 ** (gain_db / 20), samples


def limit_bandwidth(features: Tensor, centres_hz: Tensor, floor: Tensor, config: AugmentConfig) -> Tensor:
    """Empty the mel bins above a random frequency in some rows, as narrow-band codecs and telephones do.

    Args:
        features: `(B, T, n_mels)`, normalised.
        centres_hz: `(n_mels,)`, ascending.
        floor: `(n_mels,)`, the normalised value of an empty bin.
        config: probability and lowest frequency.
    """
    batch, device = features.shape[0], features.device
    highest = float(centres_hz[-1])
    cut = config.bandwidth_min_hz + (highest - config.bandwidth_min_hz) * torch.rand(batch, 1, device=device)
    cut[torch.rand(batch, 1, device=device) >= config.bandwidth_probability] = highest + 1
    gone = centres_hz[None] > cut  # (B, n_mels)
    return torch.where(gone[:, None], floor, features)


def mask_spectrum(features: Tensor, lengths: Tensor, config: AugmentConfig) -> Tensor:
    """SpecAugment (Park et al. 2019) without time warping: random mel bands and stretches of time become zero."""
    batch, frames, mels = features.shape
    device = features.device
    gone = torch.zeros(batch, frames, mels, dtype=torch.bool, device=device)
    for _ in range(config.mel_masks):
        gone |= _bands(torch.full((batch,), mels, device=device), mels, config.mel_mask_bins)[:, None, :]
    for _ in range(config.time_masks):
        longest = (lengths * config.time_mask_share).clamp(max=config.time_mask_frames)
        gone |= _bands(lengths, frames, longest)[:, :, None]
    return features.masked_fill(gone, 0.0)


def _bands(lengths: Tensor, size: int, longest: Tensor | int) -> Tensor:
    """One random band in each row: `(B, size)` bool, inside the row's length."""
    width = torch.rand(lengths.shape, device=lengths.device) * longest
    start = torch.rand(lengths.shape, device=lengths.device) * (lengths - width).clamp(min=0)
    places = torch.arange(size, device=lengths.device)[None]
    return (places >= start[:, None]) & (places < (start + width)[:, None])
