"""Log-mel features, normalised by statistics stored with the model.

There are two kinds. `LogMel` is our own: frame t begins with sample t * hop_length and spans n_fft samples, so that the
features of a stream do not depend on the sizes of its chunks. `DecibelMel` is SpeechBrain's Fbank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig
from asr.model.mel import mel_filter_bank, symmetric_filter_bank
from asr.model.states import State

__all__ = ["DecibelMel", "FeatureState", "LogMel", "build_features", "mask_beyond", "speech_gains"]

# Added to the power of every mel bin: about one 16-bit quantisation step, so that the log of digital silence is finite.
_FLOOR = 1e-7

# Of `DecibelMel`: the least power, and the range below the loudest bin, to whose lower end quieter bins are raised.
_LEAST_POWER, _RANGE_DB = 1e-10, 80.0

# Of `speech_gains`: the windows, those that count as speech (at most this far below the loudest) and as silence, and
# the limit of the gain, up or down, beyond which noise taken for speech could be heard as words.
_LEVEL_SAMPLES, _SPEECH_DB, _SILENCE_DB, _MOST_GAIN_DB = 512, 20.0, -90.0, 30.0


@dataclass(frozen=True)
class FeatureState(State):
    """Samples carried over to the next frame, `(B, n)`, and the loudest bin so far in decibels, `(B,)`."""

    pending: Tensor
    loudest: Tensor


def mask_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Set the frames of `x` `(B, T, D)` at and beyond each row's length `(B,)` to zero."""
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x * inside[..., None].to(x.dtype)


def speech_gains(waveform: Tensor, samples: Tensor, target_db: float) -> Tensor:
    """The gain `(B,)` that brings the speech of each row to a level, at most 30 dB up or down; 1 for silence.

    The level of speech is the mean power of the windows at most 20 dB below the loudest one.

    Args:
        waveform: `(B, N)`, padded at the end.
        samples: `(B,)`, length of each row.
        target_db: dB re full scale.
    """
    if waveform.shape[1] < _LEVEL_SAMPLES:
        return waveform.new_ones(len(waveform))
    powers = waveform.unfold(1, _LEVEL_SAMPLES, _LEVEL_SAMPLES).square().mean(dim=2)
    whole = torch.arange(powers.shape[1], device=powers.device) < (samples // _LEVEL_SAMPLES)[:, None]
    loudest = (powers * whole).amax(dim=1, keepdim=True)
    speech = whole & (powers >= loudest * 10 ** (-_SPEECH_DB / 10))
    level = (powers * speech).sum(dim=1) / speech.sum(dim=1).clamp(min=1)
    silent = loudest[:, 0] < 10 ** (_SILENCE_DB / 10)
    gain_db = target_db - 10 * level.clamp(min=1e-20).log10()
    return 10 ** (gain_db.clamp(-_MOST_GAIN_DB, _MOST_GAIN_DB).masked_fill(silent, 0.0) / 20)


class LogMel(nn.Module):
    """Waveform `(B, samples)` to normalised log-mel features `(B, T, n_mels)`."""

    floor = math.log(_FLOOR)  # value, before normalisation, of a bin without any power
    to_decibels = 10 / math.log(10)  # factor from values before normalisation

    mean: Tensor
    std: Tensor
    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        # Derived from the config, so not stored with the weights.
        self.register_buffer("window", self._window(config.win_length), persistent=False)
        bank = (config.sample_rate, config.n_fft, config.n_mels, config.f_min, config.f_max)
        self.register_buffer("filters", self._filters(*bank), persistent=False)
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("std", torch.ones(config.n_mels))

    _window = staticmethod(torch.hann_window)
    _filters = staticmethod(mel_filter_bank)

    def lengths(self, samples: Tensor) -> Tensor:
        """Number of frames `(B,)` of waveforms of `samples` `(B,)`; 0 for a waveform shorter than n_fft."""
        frames = (samples - self.config.n_fft) // self.config.hop_length + 1
        return frames.clamp(min=0)

    def level(self, features: Tensor) -> Tensor:
        """Level in decibels `(B, T)` of normalised features `(B, T, n_mels)`: the mean over the mel bins."""
        return (features.float() * self.std + self.mean).mean(dim=-1) * self.to_decibels

    def unnormalised(self, waveform: Tensor) -> Tensor:
        """Log-mel features `(B, T, n_mels)` before normalisation, in float32 whatever the autocast state."""
        return self._logarithm(self._power(waveform))

    def _power(self, waveform: Tensor) -> Tensor:
        """Power `(B, T, n_mels)` in the mel bins of every whole frame of `waveform` `(B, N)`."""
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
            return spectrum.abs().square().transpose(1, 2) @ self.filters

    def _logarithm(self, power: Tensor) -> Tensor:
        return (power + _FLOOR).log()

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
        return FeatureState(self.mean.new_zeros(batch_size, 0), self.mean.new_full((batch_size,), -math.inf))

    def step(self, waveform: Tensor, state: FeatureState, final: bool = False) -> tuple[Tensor, FeatureState]:
        """Features of the frames that become complete.

        Args:
            waveform: `(B, n)`, the next samples.
            state: from `initial_state` or the previous step.
            final: whether the stream ends here; `DecibelMel` then completes frames that reach beyond the end.

        Returns:
            `(B, t, n_mels)`, and the next state.
        """
        waveform = torch.cat([state.pending, waveform], dim=1)
        frames = max(0, (waveform.shape[1] - self.config.n_fft) // self.config.hop_length + 1)
        if frames == 0:
            empty = waveform.new_zeros(waveform.shape[0], 0, self.config.n_mels)
            return empty, FeatureState(waveform, state.loudest)
        features = (self.unnormalised(waveform) - self.mean) / self.std
        # Cloned, so that the state does not keep the whole chunk in memory.
        return features, FeatureState(waveform[:, frames * self.config.hop_length :].clone(), state.loudest)


class DecibelMel(LogMel):
    """SpeechBrain's Fbank: frame t is centred on sample t * hop_length, with zeros before and after the waveform.

    Values are decibels, with a floor 80 dB below the loudest bin of the utterance, which only digital silence and the
    like reach. In a stream, the floor follows the loudest bin so far.
    """

    floor = 10 * math.log10(_LEAST_POWER)
    to_decibels = 1.0

    _window = staticmethod(torch.hamming_window)
    _filters = staticmethod(symmetric_filter_bank)

    @property
    def _half(self) -> int:
        return self.config.n_fft // 2

    def lengths(self, samples: Tensor) -> Tensor:
        """Number of frames `(B,)` of waveforms of `samples` `(B,)`: one more than whole hops; 0 for an empty one."""
        return (samples // self.config.hop_length + 1) * (samples > 0)

    def unnormalised(self, waveform: Tensor) -> Tensor:
        padded = nn.functional.pad(waveform, (self._half, self._half)) if waveform.shape[1] else waveform
        decibels = self._logarithm(self._power(padded))
        return decibels if decibels.shape[1] == 0 else _raised(decibels, decibels.amax(dim=(1, 2), keepdim=True))

    def _logarithm(self, power: Tensor) -> Tensor:
        return 10 * power.clamp(min=_LEAST_POWER).log10()

    def forward(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        # The last frames of a row reach into its padding, which must be zero.
        waveform = waveform * (torch.arange(waveform.shape[1], device=waveform.device) < samples[:, None])
        return super().forward(waveform, samples)

    def initial_state(self, batch_size: int) -> FeatureState:
        state = super().initial_state(batch_size)
        return FeatureState(self.mean.new_zeros(batch_size, self._half), state.loudest)

    def step(self, waveform: Tensor, state: FeatureState, final: bool = False) -> tuple[Tensor, FeatureState]:
        waveform = torch.cat([state.pending, waveform], dim=1)
        if final and waveform.shape[1] > self._half:
            waveform = nn.functional.pad(waveform, (0, self._half))
        decibels = self._logarithm(self._power(waveform))
        if decibels.shape[1] == 0:
            return decibels, FeatureState(waveform, state.loudest)
        loudest = torch.maximum(decibels.amax(dim=2).cummax(dim=1).values, state.loudest[:, None])
        features = (_raised(decibels, loudest[..., None]) - self.mean) / self.std
        pending = waveform[:, decibels.shape[1] * self.config.hop_length :].clone()
        return features, FeatureState(pending, loudest[:, -1].clone())


def _raised(decibels: Tensor, loudest: Tensor) -> Tensor:
    return torch.maximum(decibels, loudest - _RANGE_DB)


def build_features(config: FeatureConfig) -> LogMel:
    """The kind that the config names."""
    return {"log_mel": LogMel, "decibel": DecibelMel}[config.kind](config)
