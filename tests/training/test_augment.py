"""Augmentation beyond gain and noise: rooms, codecs and vocal tracts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asr.model.mel import hz_to_mel, mel_to_hz
from asr.training.augment import degrade, reverberate, warp_vocal_tract
from asr.training.config import AugmentConfig

OFF = AugmentConfig(reverb_probability=0.0, codec_probability=0.0)
ROOM = dataclasses.replace(OFF, reverb_probability=1.0)
CODEC = dataclasses.replace(OFF, codec_probability=1.0)
Augment = Callable[[Tensor, Tensor, AugmentConfig], Tensor]


@pytest.mark.parametrize("augment", [reverberate, degrade])
def test_what_is_off_changes_nothing(augment: Augment) -> None:
    waveform = torch.randn(3, 4_000)
    assert torch.equal(augment(waveform, torch.tensor([4_000, 2_000, 1]), OFF), waveform)


@pytest.mark.parametrize(("augment", "config"), [(reverberate, ROOM), (degrade, CODEC)])
def test_rooms_and_codecs_come_as_often_as_asked_for(augment: Augment, config: AugmentConfig) -> None:
    rare = dataclasses.replace(
        config, reverb_probability=config.reverb_probability * 0.3, codec_probability=config.codec_probability * 0.3
    )
    waveform = torch.randn(300, 700)
    changed = (augment(waveform, torch.full((300,), 700), rare) != waveform).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize(("augment", "config"), [(reverberate, ROOM), (degrade, CODEC)])
def test_silence_and_padding_stay_silent(augment: Augment, config: AugmentConfig) -> None:
    samples = torch.tensor([8_000, 3_000, 8_000])
    waveform = torch.randn(3, 8_000) * (torch.arange(8_000) < samples[:, None])
    waveform[2] = 0
    changed = augment(waveform, samples, config)
    assert changed.shape == waveform.shape
    assert torch.isfinite(changed).all()
    assert changed[1, 3_000:].abs().max() == 0
    assert changed[2].abs().max() < 1e-6


def test_a_room_fades_by_60_db_in_its_time_and_hears_nothing_before_the_sound() -> None:
    """A click stays in place, and its reverberation falls by 30 dB in half of the reverberation time."""
    click = torch.zeros(20, 16_000)
    click[:, 4_000] = 1.0
    config = dataclasses.replace(ROOM, reverb_seconds=(0.4, 0.4))
    heard = reverberate(click, torch.full((20,), 16_000), config)
    assert heard[:, :4_000].abs().max() < 1e-5
    assert (heard.abs().argmax(1) == 4_000).all()
    level_db = 10 * heard.square().mean(0)[4_001:].unfold(0, 800, 800).mean(1).log10()
    assert float(level_db[0] - level_db[4]) == pytest.approx(30, abs=2)


def test_a_room_leaves_the_loudness_as_it_was() -> None:
    waveform = torch.randn(8, 16_000) * torch.logspace(-2, 0, 8)[:, None]
    heard = reverberate(waveform, torch.full((8,), 16_000), ROOM)
    torch.testing.assert_close(heard.norm(dim=1), waveform.norm(dim=1), rtol=1e-3, atol=0)
    assert not torch.allclose(heard, waveform, rtol=0.1)


def test_a_codec_adds_as_much_noise_as_was_asked_for_in_loud_and_quiet_bands() -> None:
    """Codec noise is 15 dB below the signal in both of two bands whose levels differ by 40 dB."""
    samples = torch.full((4,), 32_000)
    spectrum = torch.fft.rfft(torch.randn(4, 32_000))
    hertz = torch.arange(spectrum.shape[1]) / 2
    waveform = torch.fft.irfft(spectrum * torch.where(hertz < 4_000, 1.0, 0.01))
    coded = degrade(waveform, samples, dataclasses.replace(CODEC, codec_snr_db=(15.0, 15.0)))
    signal, noise = (torch.fft.rfft(x).abs().square() for x in (waveform, coded - waveform))
    for low, high in ((500, 3_500), (4_500, 7_500)):
        inside = (hertz > low) & (hertz < high)
        snr_db = 10 * (signal[:, inside].sum() / noise[:, inside].sum()).log10()
        # Overlap-add of frames averages some of the noise away.
        assert 14.5 < float(snr_db) < 18.5


def test_a_codec_drops_what_is_far_below_its_band() -> None:
    """A faint tone beside a loud one in the same band is gone; alone it is kept."""
    time = torch.arange(16_000) / 16_000
    loud, faint = torch.sin(2 * torch.pi * 6_000 * time), 0.01 * torch.sin(2 * torch.pi * 6_200 * time)
    samples, config = torch.tensor([16_000, 16_000]), dataclasses.replace(CODEC, codec_snr_db=(8.0, 8.0))
    together, alone = degrade(torch.stack([loud + faint, faint]), samples, config)
    place = 6_200  # a bin per Hz
    before = torch.fft.rfft(faint).abs()[place]
    assert torch.fft.rfft(alone).abs()[place] == pytest.approx(float(before), rel=0.2)
    assert abs(torch.fft.rfft(together).abs()[place] - before) > 0.5 * before


CENTRES_HZ = mel_to_hz(torch.linspace(hz_to_mel(20.0), hz_to_mel(8_000.0), 82)[1:-1])


def test_a_vocal_tract_is_as_it_was_unless_asked_for() -> None:
    features = torch.randn(3, 5, 80)
    assert torch.equal(warp_vocal_tract(features, CENTRES_HZ, OFF), features)


def test_a_vocal_tract_scales_formants_within_the_range_and_keeps_the_edges() -> None:
    """A peak at 1,500 Hz moves by at most the range in both directions; the highest bin and all frames stay."""
    config = dataclasses.replace(OFF, vocal_tract_range=0.2)
    distance = (CENTRES_HZ.log() - torch.tensor(1_500.0).log()).abs()
    features = (-distance).expand(200, 4, 80).clone()
    features[:, 2] = 7.0  # a constant frame
    warped = warp_vocal_tract(features, CENTRES_HZ, config)
    assert (warped[:, 2] == 7.0).all()
    torch.testing.assert_close(warped[:, 0, -1], features[:, 0, -1])
    factor = CENTRES_HZ[warped[:, 0].argmax(1)] / 1_500
    assert 0.77 < float(factor.min()) < 0.87
    assert 1.13 < float(factor.max()) < 1.23
    assert float(factor.mean()) == pytest.approx(1.0, abs=0.05)


def test_a_vocal_tract_of_the_same_length_changes_nothing() -> None:
    features = torch.randn(3, 5, 80)
    config = dataclasses.replace(OFF, vocal_tract_range=1e-9)
    torch.testing.assert_close(warp_vocal_tract(features, CENTRES_HZ, config), features, rtol=0, atol=1e-4)
