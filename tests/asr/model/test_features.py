"""Log-mel features: equal to librosa's, and independent of chunks and padding."""

from __future__ import annotations

import itertools
import math

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.config import FeatureConfig
from asr.model.features import DecibelMel, LogMel, build_features, speech_gains

CONFIG = FeatureConfig()
TOLERANCE = 1e-4


def sound(samples: int, rows: int = 1, seed: int = 0) -> Tensor:
    """Tones over noise that swell and fade, `(rows, samples)`, for loud and quiet frames in high and low bins."""
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / CONFIG.sample_rate
    tones = sum(torch.sin(2 * math.pi * f * time) for f in (180.0, 920.0, 3_100.0))
    swell = 0.05 + 0.2 * torch.sin(2 * math.pi * 1.7 * time).square()
    return swell * (tones + 0.3 * torch.randn(rows, samples, generator=random))


@pytest.fixture(scope="module")
def frontend() -> LogMel:
    """A frontend with statistics other than mean 0 and deviation 1."""
    logmel = LogMel(CONFIG)
    random = torch.Generator().manual_seed(1)
    logmel.mean.copy_(-6 + torch.randn(CONFIG.n_mels, generator=random))
    logmel.std.copy_(1 + torch.rand(CONFIG.n_mels, generator=random))
    return logmel


def whole(frontend: LogMel, waveform: Tensor) -> Tensor:
    rows, samples = waveform.shape
    return frontend(waveform, torch.full((rows,), samples))[0]


def in_pieces(frontend: LogMel, waveform: Tensor, cuts: list[int]) -> Tensor:
    """Features of the pieces between `cuts`, one step each."""
    state, found = frontend.initial_state(len(waveform)), []
    for start, stop in itertools.pairwise([0, *cuts, waveform.shape[1]]):
        features, state = frontend.step(waveform[:, start:stop], state)
        found.append(features)
        assert state.pending.shape[1] < CONFIG.n_fft
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("config", [CONFIG, FeatureConfig(n_mels=40, win_length=512, hop_length=128, f_min=0.0)])
def test_features_are_the_logarithm_of_librosas_mel_spectrogram(config: FeatureConfig) -> None:
    """Features equal the logarithm of librosa's mel spectrogram, so that users can recompute them."""
    waveform = sound(16_000)
    expected = librosa.feature.melspectrogram(
        y=waveform[0].double().numpy(),
        sr=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        fmin=config.f_min,
        fmax=config.f_max,
        center=False,
        power=2.0,
        htk=False,
        norm="slaney",
    )
    found = LogMel(config).unnormalised(waveform)[0].T.numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, np.log(expected + 1e-7), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [CONFIG, FeatureConfig(n_mels=40, win_length=512, hop_length=128, f_min=0.0)])
def test_features_are_torchaudios(config: FeatureConfig) -> None:
    """Features equal torchaudio's, an optional reference that need not load beside every torch."""
    from torchaudio.transforms import MelSpectrogram

    reference = MelSpectrogram(
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
    waveform = sound(16_000, rows=2)
    expected = (reference(waveform) + 1e-7).log().transpose(1, 2)
    torch.testing.assert_close(LogMel(config).unnormalised(waveform), expected, rtol=0, atol=1e-6)


def test_silence_is_finite_and_at_the_floor(frontend: LogMel) -> None:
    """Digital silence gives features at the floor, not minus infinity."""
    found = frontend.unnormalised(torch.zeros(1, 4_000))
    torch.testing.assert_close(found, torch.full_like(found, frontend.floor))


@pytest.mark.parametrize(("samples", "chunk"), [(1_500, 1), (4_000, 7), (16_123, 160), (16_123, 777), (40_321, 16_000)])
def test_chunks_equal_the_whole(frontend: LogMel, samples: int, chunk: int) -> None:
    """Promise 1: features do not depend on the chunk size."""
    waveform = sound(samples, rows=2)
    expected = whole(frontend, waveform)
    found = in_pieces(frontend, waveform, list(range(chunk, samples, chunk)))
    assert expected.shape[1] == (samples - CONFIG.n_fft) // CONFIG.hop_length + 1
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@settings(max_examples=30)
@given(samples=st.integers(0, 6_000), cuts=st.lists(st.integers(0, 6_000), max_size=12))
def test_any_cuts_equal_the_whole(frontend: LogMel, samples: int, cuts: list[int]) -> None:
    """Any cuts, with empty pieces and tails of a few samples, equal the whole."""
    waveform = sound(samples)
    found = in_pieces(frontend, waveform, sorted(min(cut, samples) for cut in cuts))
    torch.testing.assert_close(found, whole(frontend, waveform), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("samples", [0, 1, CONFIG.n_fft - 1])
def test_shorter_than_a_frame_gives_no_frames(frontend: LogMel, samples: int) -> None:
    """Audio shorter than a frame gives no frames: no error, and no frame of padding."""
    features, lengths = frontend(sound(samples), torch.tensor([samples]))
    assert features.shape == (1, 0, CONFIG.n_mels)
    assert lengths.tolist() == [0]
    assert frontend.step(sound(samples), frontend.initial_state(1))[0].shape == (1, 0, CONFIG.n_mels)


def test_a_frame_begins_with_its_first_whole_window(frontend: LogMel) -> None:
    samples = torch.tensor([0, 511, 512, 671, 672, 16_000])
    assert frontend.lengths(samples).tolist() == [0, 0, 1, 1, 2, 97]


def test_padding_in_a_batch_changes_nothing(frontend: LogMel) -> None:
    """Promise 2: a row's features do not depend on the padding, and are zero beyond its length."""
    lengths = [16_000, 9_001, 512, 300]
    batch = sound(16_000, rows=4)
    features, counts = frontend(batch, torch.tensor(lengths))
    for row, samples in enumerate(lengths):
        alone = whole(frontend, batch[row : row + 1, :samples])[0]
        assert len(alone) == counts[row]
        torch.testing.assert_close(features[row, : len(alone)], alone, rtol=0, atol=TOLERANCE)
        assert not features[row, len(alone) :].any()


def test_no_frame_depends_on_samples_after_it(frontend: LogMel) -> None:
    """Frame t ends with sample t * hop_length + n_fft; later samples do not change it."""
    waveform = sound(8_000)
    edge = 20 * CONFIG.hop_length + CONFIG.n_fft
    changed = waveform.clone()
    changed[:, edge:] = sound(8_000, seed=7)[:, edge:] * 3
    before, after = whole(frontend, waveform), whole(frontend, changed)
    torch.testing.assert_close(after[:, :21], before[:, :21], rtol=0, atol=TOLERANCE)
    assert not torch.allclose(after[:, 22:], before[:, 22:], atol=0.1)


def test_statistics_are_stored_and_the_filterbank_is_not(frontend: LogMel) -> None:
    """A checkpoint stores the measured statistics; the filterbank is built from the config."""
    assert set(frontend.state_dict()) == {"mean", "std"}
    other = LogMel(CONFIG)
    other.load_state_dict(frontend.state_dict())
    waveform = sound(4_000)
    assert torch.equal(whole(other, waveform), whole(frontend, waveform))
    assert not torch.allclose(whole(LogMel(CONFIG), waveform), whole(frontend, waveform), atol=0.1)


def test_features_are_normalised_by_the_statistics(frontend: LogMel) -> None:
    waveform = sound(16_000)
    raw = frontend.unnormalised(waveform)
    measured = LogMel(CONFIG)
    measured.mean.copy_(raw.mean(dim=(0, 1)))
    measured.std.copy_(raw.std(dim=(0, 1)))
    features = whole(measured, waveform)
    torch.testing.assert_close(features.mean(dim=(0, 1)), torch.zeros(CONFIG.n_mels), rtol=0, atol=1e-3)
    torch.testing.assert_close(features.std(dim=(0, 1)), torch.ones(CONFIG.n_mels), rtol=0, atol=1e-3)


def test_bfloat16_autocast_does_not_change_features(frontend: LogMel) -> None:
    """Features stay in float32 inside autocast: bfloat16 would spoil the logarithm of small powers."""
    waveform = sound(8_000)
    expected = whole(frontend, waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = whole(frontend, waveform)
        stepped = in_pieces(frontend, waveform, [3_000])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    torch.testing.assert_close(stepped, expected, rtol=0, atol=TOLERANCE)


# --- decibels ---------------------------------------------------------------------------------------------------------

DECIBELS = FeatureConfig("decibel", n_fft=400, n_mels=40, f_min=0.0)


@pytest.fixture(scope="module")
def decibels() -> LogMel:
    made = build_features(DECIBELS)
    assert isinstance(made, DecibelMel)
    made.mean.fill_(-20.0)
    made.std.fill_(10.0)
    return made


def decibels_in_pieces(frontend: LogMel, waveform: Tensor, cuts: list[int]) -> Tensor:
    state, found = frontend.initial_state(len(waveform)), []
    pieces = list(itertools.pairwise([0, *cuts, waveform.shape[1]]))
    for i, (start, stop) in enumerate(pieces):
        features, state = frontend.step(waveform[:, start:stop], state, final=i + 1 == len(pieces))
        found.append(features)
    return torch.cat(found, dim=1)


def test_decibels_are_those_of_librosas_spectrogram(decibels: LogMel) -> None:
    """Power in decibels, zero-padded at both ends and limited to 80 dB below the loudest bin, equals librosa's."""
    waveform = torch.cat([sound(8_000), torch.zeros(1, 8_000)], dim=1)
    spectrum = librosa.stft(
        waveform[0].double().numpy(), n_fft=400, hop_length=160, window="hamming", center=True, pad_mode="constant"
    )
    power = (np.abs(spectrum) ** 2).T @ decibels.filters.double().numpy()
    expected = 10 * np.log10(np.maximum(power, 1e-10))
    assert expected.min() < expected.max() - 80
    found = decibels.unnormalised(waveform)[0].numpy()
    np.testing.assert_allclose(found, np.maximum(expected, expected.max() - 80), rtol=0, atol=1e-3)


@settings(max_examples=25)
@given(samples=st.integers(1, 6_000), cuts=st.lists(st.integers(0, 6_000), max_size=8))
def test_any_cuts_equal_the_whole_in_decibels(decibels: LogMel, samples: int, cuts: list[int]) -> None:
    waveform = sound(samples)
    found = decibels_in_pieces(decibels, waveform, sorted(min(cut, samples) for cut in cuts))
    assert found.shape[1] == decibels.lengths(torch.tensor([samples])).item()
    torch.testing.assert_close(found, whole(decibels, waveform), rtol=0, atol=TOLERANCE)


def test_a_stream_knows_the_loudest_so_far(decibels: LogMel) -> None:
    """In a stream, the floor depends on the loudest bin so far: initial silence may be lower than in the whole."""
    waveform = torch.cat([torch.zeros(1, 4_000), sound(4_000), torch.zeros(1, 4_000)], dim=1)
    expected = whole(decibels, waveform)
    streams = [decibels_in_pieces(decibels, waveform, list(range(cut, 12_000, cut))) for cut in (50, 777, 12_000)]
    for found in streams:
        torch.testing.assert_close(found, streams[0], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(found[:, 50:], expected[:, 50:], rtol=0, atol=TOLERANCE)
        assert (found[:, :20] < expected[:, :20] - 1).all()


def test_padding_changes_no_decibels(decibels: LogMel) -> None:
    batch, lengths = sound(8_000, rows=3), [8_000, 3_001, 100]
    features, counts = decibels(batch, torch.tensor(lengths))
    for row, samples in enumerate(lengths):
        alone = whole(decibels, batch[row : row + 1, :samples])[0]
        assert len(alone) == counts[row]
        torch.testing.assert_close(features[row, : len(alone)], alone, rtol=0, atol=TOLERANCE)
        assert not features[row, len(alone) :].any()


def speech_db(waveform: Tensor) -> float:
    """Mean power of the windows of 512 samples at most 20 dB below the loudest, by numpy."""
    windows = waveform[: len(waveform) // 512 * 512].reshape(-1, 512).double().numpy()
    levels = 10 * np.log10((windows**2).mean(axis=1))
    return float(10 * np.log10((10 ** (levels[levels >= levels.max() - 20] / 10)).mean()))


@pytest.mark.parametrize("decibels", [-18, -6, 0, 6])
def test_speech_is_brought_to_a_level(decibels: int) -> None:
    """A quiet reader of dev lost more words than the same recordings 4 dB louder."""
    waveform = sound(48_000) * 10 ** ((-24 - speech_db(sound(48_000)[0]) + decibels) / 20)
    gain = speech_gains(waveform, torch.tensor([48_000]), -24.0)
    assert speech_db(waveform[0] * gain) == pytest.approx(-24.0, abs=0.05)


def test_gains_end_at_30_db_and_silence_has_none() -> None:
    """Noise that was taken for speech could be heard as words, once it is loud."""
    samples = torch.tensor([32_000])
    for factor, gain in ((1e-3, 10**1.5), (1e3, 10**-1.5), (0.0, 1.0), (1e-6, 1.0)):
        assert speech_gains(sound(32_000) * factor, samples, -24.0).item() == pytest.approx(gain), factor
    for length in (0, 1, 511):
        assert speech_gains(sound(512)[:, :length], torch.tensor([length]), -24.0).tolist() == [1.0]


def test_a_gain_depends_neither_on_padding_nor_on_the_batch() -> None:
    rows = [sound(samples, seed=samples)[0] * samples / 60_000 for samples in (300, 9_000, 20_480, 31_999)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = speech_gains(padded, torch.tensor([len(row) for row in rows]), -24.0)
    alone = [speech_gains(row[None], torch.tensor([len(row)]), -24.0) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone))
