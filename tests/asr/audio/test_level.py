"""Very quiet speech and floats scaled as integers are brought into range; all other audio stays the same to the bit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, blocks, load
from asr.audio.level import LevelCorrector
from tests.support.containers import bursts
from tests.support.sounds import tone, write


def levelled(samples: np.ndarray, cuts: list[int]) -> np.ndarray:
    level, out = LevelCorrector("a"), []
    for piece in np.split(samples, cuts):
        out += list(level.step(piece))
    return np.concatenate([np.zeros(0, np.float32), *out, *level.flush()])


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.square(samples).mean()))


@pytest.mark.parametrize("decibels", [-45, -50, -60])
def test_very_quiet_speech_gets_a_gain(decibels: int) -> None:
    """At -50 dB the model hallucinated fluent text."""
    samples = bursts(4.0) * np.float32(10 ** (decibels / 20))
    raised = levelled(samples, [])
    assert 0.05 < rms(raised) < 0.3
    assert np.allclose(raised / rms(raised), samples / rms(samples), atol=1e-3)


@pytest.mark.parametrize("decibels", [0, -10, -20, 6])
def test_normal_levels_are_left_as_they_are(decibels: int) -> None:
    samples = np.concatenate((np.zeros(40_000, np.float32), bursts(4.0) * np.float32(10 ** (decibels / 20))))
    assert np.array_equal(levelled(samples, []), samples)


def test_steady_noise_and_silence_are_not_raised() -> None:
    """Amplified silence could be transcribed as words."""
    noise = np.random.default_rng(0).normal(0, 3e-4, 65 * SAMPLE_RATE).astype(np.float32)
    dither = np.random.default_rng(0).integers(-1, 2, 5 * SAMPLE_RATE).astype(np.float32) / 32_768
    for samples in (noise, dither, np.zeros(5 * SAMPLE_RATE, np.float32), np.zeros(0, np.float32)):
        assert np.array_equal(levelled(samples, []), samples)


@pytest.mark.parametrize("scale", [2.0**15, 2.0**31])
def test_floats_scaled_as_integers_are_divided(scale: float, caplog: pytest.LogCaptureFixture) -> None:
    """`transcribe(int16.astype("float32"))` gave fluent nonsense."""
    samples = np.concatenate((np.zeros(20_000, np.float32), bursts(3.0)))
    with caplog.at_level(logging.WARNING):
        assert np.allclose(levelled(samples * np.float32(scale), []), samples, atol=1e-6)
    assert "as if scaled as integers" in caplog.text


def test_int16_values_in_an_int32_array_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    samples = (bursts(1.0) * 32_767).astype(np.int32)
    with caplog.at_level(logging.WARNING):
        waveform = load(samples, sample_rate=SAMPLE_RATE)
    assert torch.equal(waveform, load(samples.astype(np.int16), sample_rate=SAMPLE_RATE))
    assert "int16" in caplog.text


@settings(max_examples=15)
@given(st.sampled_from([1.0, 1e-3, 3e4]), st.lists(st.integers(0, 70 * SAMPLE_RATE), max_size=6))
def test_chunks_equal_the_whole(gain: float, cuts: list[int]) -> None:
    """Quiet for half a minute and more, so that more than one gain is decided."""
    quiet = np.tile(bursts(4.0), 9) * np.float32(1e-3)
    samples = np.concatenate((quiet, np.tile(bursts(4.0), 8) * np.float32(gain)))
    assert np.array_equal(levelled(samples, sorted(cuts)), levelled(samples, []))


def test_blocks_of_a_quiet_file_equal_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", bursts(3.0) * np.float32(1e-3), subtype="FLOAT")
    whole = load(path)
    assert rms(whole.numpy()) > 0.05
    assert torch.equal(torch.cat(list(blocks(path, block_seconds=0.013))), whole)


def test_a_change_of_gain_is_a_fade() -> None:
    """A tone that becomes loud after 30 s changes its gain over 10 ms, not at once."""
    wave = tone(4.0, hertz=100) * (0.05 + np.abs(np.sin(np.arange(64_000) / 5000))).astype(np.float32)
    samples = np.concatenate((np.tile(wave, 8)[: 30 * SAMPLE_RATE] * np.float32(1e-3), np.tile(wave, 2)))
    jumps = np.abs(np.diff(levelled(samples, [])))
    assert jumps.max() < 0.1
