"""PCM decoding and downmix: opposite-phase channels stay audible, independently of the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.audio import pcm
from asr.audio.pcm import Downmix, DownmixState
from tests.support.sounds import tone

RATE = 16_000


def mix(values: np.ndarray, cuts: list[int], rate: int = RATE) -> np.ndarray:
    """The downmix of `values`, pushed in chunks that begin at these frames."""
    downmix, state, mixed = Downmix(rate, values.shape[1]), DownmixState.start(values.shape[1]), []
    for chunk in np.split(values, cuts):
        one, state = downmix.step(chunk, state)
        mixed.append(one)
    return np.concatenate([*mixed, downmix.flush(state)])


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("u8", b"\x00\x80\xff\x80", [[-1.0, 0.0], [127 / 128, 0.0]]),
        ("s16le", b"\x00\x80\xff\x7f\x00\x00\x01\x00", [[-1.0, 32767 / 32768], [0.0, 1 / 32768]]),
        ("s24le", b"\x00\x00\x80\xff\xff\x7f", [[-1.0, 8388607 / 8388608]]),
        ("s32le", b"\x00\x00\x00\x80\x00\x00\x00\x40", [[-1.0, 0.5]]),
        ("f32le", np.array([-2.0, 0.25], "<f4").tobytes(), [[-2.0, 0.25]]),
    ],
)
def test_each_encoding_is_decoded_and_bytes_of_a_cut_frame_are_returned(
    encoding: str, data: bytes, expected: list[list[float]]
) -> None:
    values, leftover = pcm.decode(data, encoding, channels=2)
    assert values.dtype == np.float32
    assert values.tolist() == expected
    assert leftover == b""
    for cut in range(len(data) + 1):
        first, leftover = pcm.decode(data[:cut], encoding, channels=2)
        second, rest = pcm.decode(leftover + data[cut:], encoding, channels=2)
        assert np.array_equal(np.concatenate((first, second)), values)
        assert rest == b""


def test_integer_encodings_are_told_by_their_width() -> None:
    assert {name: pcm.ENCODINGS[name] for name in pcm.INTEGER_ENCODINGS.values()} == {
        name: width for width, name in pcm.INTEGER_ENCODINGS.items()
    }


@pytest.mark.parametrize("channels", [2, 3, 7])
def test_channels_that_do_not_cancel_give_exactly_their_mean(channels: int) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (5000, channels)).astype(np.float32)
    assert np.array_equal(mix(values, []), values.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("gain", [-1.0, -0.8])
def test_a_phase_inverted_channel_leaves_the_sentence_audible(gain: float) -> None:
    """The channels of a balanced line cancel: such a file gave an empty transcript without a warning."""
    voice = tone(1.0, RATE)
    mixed = mix(np.stack([voice, gain * voice], axis=1), [])
    assert np.abs(mixed - voice)[round(0.005 * RATE) :].max() < 1e-6


def test_a_change_of_the_mix_makes_no_click() -> None:
    """Half a second of equal channels, half a second of inverted ones, and back."""
    voice = tone(1.5, RATE)
    other = voice.copy()
    other[RATE // 2 : RATE] *= -1
    mixed = mix(np.stack([voice, other], axis=1), [])
    assert np.abs(np.diff(mixed)).max() < 1.5 * np.abs(np.diff(voice)).max()
    assert np.square(mixed).mean() > 0.97 * np.square(voice).mean()


def test_the_same_channel_is_heard_before_and_after_a_pause() -> None:
    """The selection alternated between equally loud channels, which flipped the sign of the waveform."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, RATE)).astype(np.float32)
    voice = tone(1.0, RATE) * (np.arange(RATE) % 4000 > 1000)
    mixed = mix(np.stack([voice + noise[0], -voice + noise[1]], axis=1), [])
    loud = np.abs(voice) > 0.1
    assert (np.sign(mixed[loud]) == np.sign(voice[loud])).mean() > 0.97


def streams(seed: int, channels: int, length: int) -> np.ndarray:
    """Noise with stretches of inverted, silent and independent channels."""
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 0.1, (length, channels)).astype(np.float32)
    for _ in range(4):
        start, end = sorted(generator.integers(0, length + 1, 2))
        values[start:end, 1] = -values[start:end, 0] * generator.choice([0.0, 0.9, 1.0])
        values[start:end, 2:] = 0
    return values


@given(st.integers(0, 99), st.integers(1, 9), st.integers(0, 4000), st.lists(st.integers(0, 4000), max_size=9))
def test_chunks_equal_the_whole(seed: int, channels: int, length: int, cuts: list[int]) -> None:
    values = streams(seed, max(channels, 2), length)[:, :channels]
    whole = mix(values, [])
    assert len(whole) == length
    assert np.array_equal(mix(values, sorted(cuts)), whole)


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_one_frame_at_a_time_equals_the_whole(channels: int) -> None:
    values = streams(1, max(channels, 2), 2000)[:, :channels]
    assert np.array_equal(mix(values, list(range(2000))), mix(values, []))


def test_the_delay_is_less_than_a_window() -> None:
    downmix, state, ready = Downmix(RATE, 2), DownmixState.start(2), 0
    for taken in range(1, 1000):
        one, state = downmix.step(np.zeros((1, 2), np.float32), state)
        ready += len(one)
        assert taken - ready < 0.02 * RATE
