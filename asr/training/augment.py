"""Augmentation of whole batches on the device: room, speed, gain, noise, codec, vocal tract, bandwidth, SpecAugment."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.training.config import AugmentConfig

__all__ = ["degrade", "limit_bandwidth", "mask_spectrum", "perturb_waveform", "reverberate", "warp_vocal_tract"]

_DIRECT_DB = (0.0, 15.0)  # direct-to-reverberant ratio
_FRAME, _HOP = 512, 256  # samples of the codec's transform
_FORMANTS_HZ = 4_800.0  # formants below this frequency are scaled
_BAND_BINS = (*(4,) * 8, *(8,) * 8, *(16,) * 10, 1)  # widths of the codec's bands, 125 to 500 Hz, low to high


def reverberate(waveform: Tensor, samples: Tensor, config: AugmentConfig) -> Tensor:
    """Add reverberation to random rows: convolution with exponentially decaying noise (Moorer 1979).

    Args:
        waveform: `(B, N)`.
        samples: `(B,)`, lengths of the rows; padding stays silent.
        config: probability and range of RT60.

    Returns:
        `(B, N)`, with each row's loudness and the position of its direct sound unchanged.
    """
    rows = _some(len(waveform), config.reverb_probability, waveform.device)
    if not len(rows):
        return waveform
    dry, device = waveform[rows], waveform.device
    fade = _uniform(config.reverb_seconds, len(rows), device)
    time = torch.arange(1, int(config.reverb_seconds[1] * SAMPLE_RATE) + 1, device=device) / SAMPLE_RATE
    tail = torch.randn(len(rows), len(time), device=device) * torch.exp(-3 * math.log(10) * time / fade)
    tail = tail / tail.norm(dim=1, keepdim=True) * 10 ** (-_uniform(_DIRECT_DB, len(rows), device) / 20)
    response = torch.cat([torch.ones_like(fade), tail], dim=1)
    size = dry.shape[1] + response.shape[1]
    wet = torch.fft.irfft(torch.fft.rfft(dry, size) * torch.fft.rfft(response, size), size)[:, : dry.shape[1]]
    wet = wet * (torch.arange(dry.shape[1], device=device) < samples[rows, None])
    loudness = dry.norm(dim=1, keepdim=True) / wet.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return waveform.index_copy(0, rows, wet * loudness)


def degrade(waveform: Tensor, samples: Tensor, config: AugmentConfig) -> Tensor:
    """Simulate a low-bitrate codec in random rows: quantise the spectrum band by band.

    As in MP3 or Opus, a band's quantisation step follows its energy, and coefficients below half a step are lost.

    Args:
        waveform: `(B, N)`.
        samples: `(B,)`, lengths of the rows; padding stays silent.
        config: probability and range of the signal-to-quantisation-noise ratio per band.
    """
    rows = _some(len(waveform), config.codec_probability, waveform.device)
    if not len(rows) or waveform.shape[1] < _FRAME:
        return waveform
    clean, device = waveform[rows], waveform.device
    window = torch.hann_window(_FRAME, device=device)
    spectrum = torch.view_as_real(torch.stft(clean, _FRAME, _HOP, window=window, return_complex=True))
    sizes = torch.tensor(_BAND_BINS, device=device)
    band = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
    power = spectrum.square().sum(-1).transpose(1, 2)  # (B', frames, bins)
    energy = power.new_zeros(*power.shape[:2], len(sizes)).index_add(2, band, power) / (2 * sizes)
    # A step of s adds noise of power s² / 12 to each coefficient.
    snr_db = _uniform(config.codec_snr_db, len(rows), device)[..., None]
    step = (12 * energy * 10 ** (-snr_db / 10)).sqrt()[..., band].transpose(1, 2)[..., None].clamp(min=1e-9)
    coarse = torch.view_as_complex((spectrum / step).round() * step)
    coded = torch.istft(coarse, _FRAME, _HOP, window=window, length=clean.shape[1])
    coded = coded * (torch.arange(clean.shape[1], device=device) < samples[rows, None])
    return waveform.index_copy(0, rows, coded)


def perturb_waveform(
    waveform: Tensor, samples: Tensor, noise: Tensor | None, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Change the speed of the batch and the gain of each row, and add noise to random rows.

    Args:
        waveform: `(B, N)`.
        samples: `(B,)`, lengths of the rows.
        noise: `(M,)` background noise to cut from, or None.
        config: ranges and probabilities.

    Returns:
        The new waveform `(B, N')` and lengths `(B,)`. Speed perturbation (Ko et al. 2015) changes the pitch as well.
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
        snr_db = _uniform(config.noise_snr_db, batch, device)
        # Energies without padding; the bound keeps a silent cut of noise from being amplified.
        speech, other = (x.square().sum(1, keepdim=True) for x in (waveform * inside, cut))
        ratio = speech / other.clamp(min=1e-10 * waveform.shape[1]) * 10 ** (-snr_db / 10)
        chosen = torch.rand(batch, 1, device=device) < config.noise_probability
        waveform = waveform + cut * (ratio.sqrt() * chosen)
    gain_db = config.gain_db * (2 * torch.rand(batch, 1, device=device) - 1)
    return waveform * 10 ** (gain_db / 20), samples


def warp_vocal_tract(features: Tensor, centres_hz: Tensor, config: AugmentConfig) -> Tensor:
    """Scale the formants of each row by a random factor, as a longer or shorter vocal tract does.

    Vocal tract length perturbation (Jaitly and Hinton 2013): frequencies are scaled up to about 4.8 kHz, and squeezed
    or stretched linearly above, so that the highest stays where it is. Unlike speed, it leaves pitch and pace alone.

    Args:
        features: `(B, T, n_mels)`, normalised.
        centres_hz: `(n_mels,)`, ascending.
        config: range of the factor.
    """
    if config.vocal_tract_range == 0:
        return features
    factor = _uniform((1 - config.vocal_tract_range, 1 + config.vocal_tract_range), len(features), features.device)

    # The frequency that each bin takes its energy from, `(B, n_mels)`: the inverse of the scaling.
    highest, edge = centres_hz[-1], _FORMANTS_HZ * factor.clamp(max=1.0)
    above = highest - (highest - edge / factor) / (highest - edge) * (highest - centres_hz)
    source = torch.where(centres_hz <= edge, centres_hz / factor, above)

    # Interpolated between the two bins around it.
    right = torch.searchsorted(centres_hz, source).clamp(1, len(centres_hz) - 1)
    left = right - 1
    share = ((source - centres_hz[left]) / (centres_hz[right] - centres_hz[left])).clamp(0, 1)
    bins = (x[:, None].expand(features.shape) for x in (left, right))
    low, high = (features.gather(2, each) for each in bins)
    return low.lerp(high, share[:, None])


def limit_bandwidth(features: Tensor, centres_hz: Tensor, floor: Tensor, config: AugmentConfig) -> Tensor:
    """Clear the mel bins above a random frequency in random rows, as narrow-band codecs and telephones do.

    Args:
        features: `(B, T, n_mels)`, normalised.
        centres_hz: `(n_mels,)`, ascending.
        floor: `(n_mels,)`, the normalised value of an empty bin.
        config: probability and lowest frequency.
    """
    batch, device = features.shape[0], features.device
    share = torch.rand(batch, 1, device=device)
    cut = config.bandwidth_min_hz + (centres_hz[-1] - config.bandwidth_min_hz) * share
    chosen = torch.rand(batch, 1, device=device) < config.bandwidth_probability
    gone = (centres_hz[None] > cut) & chosen  # (B, n_mels)
    return torch.where(gone[:, None], floor, features)


def mask_spectrum(features: Tensor, lengths: Tensor, config: AugmentConfig) -> Tensor:
    """SpecAugment (Park et al. 2019) without time warping: random bands of mel bins and of frames become zero."""
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
    """A random band within each row's length: `(B, size)` bool."""
    width = torch.rand(lengths.shape, device=lengths.device) * longest
    start = torch.rand(lengths.shape, device=lengths.device) * (lengths - width).clamp(min=0)
    places = torch.arange(size, device=lengths.device)[None]
    return (places >= start[:, None]) & (places < (start + width)[:, None])


def _some(batch: int, probability: float, device: torch.device) -> Tensor:
    """Indices of randomly drawn rows."""
    if probability == 0:
        return torch.zeros(0, dtype=torch.long, device=device)
    return (torch.rand(batch, device=device) < probability).nonzero()[:, 0]


def _uniform(bounds: tuple[float, ...], rows: int, device: torch.device) -> Tensor:
    """Uniformly distributed numbers `(rows, 1)`."""
    low, high = bounds
    return low + (high - low) * torch.rand(rows, 1, device=device)
