"""Audio in any format becomes a complete 16 kHz mono waveform, or one line names the reason."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, Resampler, blocks, load, waveform
from asr.audio.chunk import Chunk
from asr.audio.decode import duration_seconds
from asr.errors import AudioError, ConfigError
from tests.support.sounds import WAV, reason, tone, write


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 1e-4),
        ("a.wav", {"subtype": "PCM_24"}, 1e-6),
        ("a.wav", {"subtype": "FLOAT"}, 0.0),
        ("a.wav", {"subtype": "DOUBLE"}, 0.0),  # samples above 1 stay unchanged
        ("a.wav", {"subtype": "PCM_U8"}, 1e-2),
        ("a.flac", {}, 1e-4),
        ("a.aiff", {}, 1e-4),
        ("a.ogg", {"subtype": "VORBIS"}, 0.05),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
        ("a.mp3", {}, 0.05),
    ],
)
def test_every_common_format_gives_the_same_waveform(
    tmp_path: Path, name: str, options: dict[str, Any], tolerance: float
) -> None:
    expected = tone() * (10 if options.get("subtype") == "DOUBLE" else 1)
    path = write(tmp_path / name, expected, **options)
    waveform = load(path)
    assert waveform.dtype == torch.float32
    lossy = tolerance == 0.05  # these ring at the ends, and Vorbis may end a block late
    assert len(expected) <= len(waveform) <= len(expected) + 512 * lossy
    inner = slice(1000, 7000)
    assert np.abs(waveform.numpy()[inner] - expected[inner]).max() <= tolerance
    assert duration_seconds(path) == pytest.approx(0.5, abs=0.1 * lossy)


def test_eight_channels_at_96_khz_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([tone(rate=96_000) * gain for gain in range(8)], axis=1) / 8
    waveform = load(write(tmp_path / "a.wav", channels, 96_000, subtype="PCM_24"))
    expected = tone() * np.mean(range(8)) / 8
    assert len(waveform) == len(expected)
    assert np.abs(waveform.numpy() - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_block_length_changes_nothing(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.flac", tone(1.234, rate), rate)
    whole = load(path)
    assert len(whole) == round(1.234 * SAMPLE_RATE)
    pieces = list(blocks(path, block_seconds=0.1))
    assert len(pieces) > 10
    assert all(0 < len(piece) <= 0.12 * SAMPLE_RATE for piece in pieces)
    assert torch.equal(torch.cat(pieces), whole)


def test_an_hour_is_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    size = 3600 * SAMPLE_RATE
    header = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 1, 16_000, 16_000, 1, 8, b"data", size
    )
    path.write_bytes(header)
    os.truncate(path, len(header) + size)
    tracemalloc.start()
    try:
        assert sum(map(len, blocks(path))) == size
        assert tracemalloc.get_traced_memory()[1] < 32e6  # the whole file is 230 MB
    finally:
        tracemalloc.stop()


def test_arrays_need_their_rate_and_files_bring_theirs() -> None:
    assert reason(tone()) == "array: needs its sample_rate"
    assert "has its own sample rate" in reason(io.BytesIO(WAV), sample_rate=16_000)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.dtype(">i2")])
def test_integers_are_scaled_to_one(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    middle = (int(limits.max) + int(limits.min) + 1) // 2
    waveform = load(np.array([limits.min, middle, limits.max], dtype=dtype), sample_rate=16_000)
    assert waveform.tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1 / 64)
    assert waveform[0] == -1.0
    assert waveform[1] == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int16])
def test_tensors(dtype: torch.dtype) -> None:
    scale = 32767 if dtype == torch.int16 else 1
    tensor = (torch.from_numpy(tone()) * scale).to(dtype)
    assert torch.allclose(load(tensor, sample_rate=16_000), torch.from_numpy(tone()), atol=2e-3)


def test_either_side_may_be_the_channels() -> None:
    stereo = np.stack([tone(), 3 * tone()])
    expected = torch.from_numpy(2 * tone())
    for array in (stereo, stereo.T, np.asfortranarray(stereo), torch.from_numpy(stereo).requires_grad_()):
        assert torch.allclose(load(array, sample_rate=16_000), expected)
    assert torch.equal(load(tone()[None], sample_rate=16_000), torch.from_numpy(tone()))


def test_the_array_stays_the_callers() -> None:
    array = tone()
    array.flags.writeable = False
    waveform = load(array[::-1], sample_rate=16_000)
    waveform.zero_()
    assert np.array_equal(array, tone())


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16_000, "array: holds no samples"),
        (np.zeros((2, 0), np.float32), 16_000, "array: holds no samples"),
        (torch.zeros(0), 16_000, "tensor: holds no samples"),
        (np.zeros(1, np.float32), 768_000, "array: holds no samples"),
        (np.zeros(0, np.float32), 0, "its sample rate is 0 Hz"),
        (np.zeros(9, np.int64), 16_000, "its samples are int64"),
        (np.zeros(9, bool), 16_000, "its samples are bool"),
        (np.zeros(9, complex), 16_000, "its samples are complex128"),
        (np.zeros((2, 3, 4), np.float32), 16_000, "its shape is (2, 3, 4)"),
        (np.float32(1), 16_000, "float32: is not a path"),
        (np.zeros(9, np.float32), 0, "its sample rate is 0 Hz: it must be 1000 to 768000 Hz"),
        (np.zeros(9, np.float32), 999, "its sample rate is 999 Hz"),
        (np.zeros(9, np.float32), 768_001, "its sample rate is 768001 Hz"),
        (np.zeros(9, np.float32), "16000", "its sample_rate is '16000': it must be a number in Hz"),
        (np.zeros(9, np.float32), True, "its sample_rate is True: it must be a number in Hz"),
        (np.full(9, 1e300), 16_000, "the sample at 0.000 s is NaN or infinite, and 8 more soon after"),
    ],
)
def test_arrays_that_hold_no_waveform(array: Any, rate: int, message: str) -> None:
    assert message in reason(array, sample_rate=rate)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_sample_that_is_no_number_is_named(tmp_path: Path, value: float, rate: int) -> None:
    data = np.stack([tone(2, rate)] * 2, axis=1)
    data[int(1.5 * rate), 1] = value
    path = write(tmp_path / "a.wav", data, rate, subtype="FLOAT")
    assert reason(path) == f"{path}: the sample at 1.500 s is NaN or infinite"
    with pytest.raises(AudioError, match=r"at 1\.500 s"):
        list(blocks(path, block_seconds=0.3))


def test_a_bad_sample_is_placed_right_after_a_change_of_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of joined streams were summed and divided by the last stream's rate."""
    bad = np.array([[0.0], [np.nan]], np.float32)
    chunks = [Chunk(8_000, np.zeros((8_000, 1), np.float32)), Chunk(48_000, bad)]
    monkeypatch.setattr(waveform, "file_chunks", lambda *_: (chunk for chunk in chunks))
    assert reason("a.ogg") == "a.ogg: the sample at 1.000 s is NaN or infinite"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_blocks_have_a_length(seconds: float) -> None:
    with pytest.raises(ConfigError, match="block_seconds"):
        next(blocks(tone(), sample_rate=16_000, block_seconds=seconds))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("cut", [1, 160, 4099])
def test_resampling_is_the_same_however_it_is_cut(rate: int, cut: int) -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, rate // 16 + 7).astype(np.float32)
    resampler = Resampler(rate)
    for _ in range(2):  # the resampler restarts with the second stream
        pieces = [resampler.step(piece) for piece in torch.from_numpy(signal).split(cut)]
        streamed = torch.cat([*pieces, resampler.flush()])
        assert np.array_equal(streamed.numpy(), soxr.resample(signal, rate, SAMPLE_RATE))


@given(st.lists(st.integers(0, 5000), max_size=8), st.integers(1000, 768_000))
def test_resampled_length_is_the_signals(cuts: list[int], rate: int) -> None:
    resampler = Resampler(rate)
    length = sum(len(resampler.step(torch.zeros(cut))) for cut in cuts) + len(resampler.flush())
    assert abs(length - sum(cuts) * SAMPLE_RATE / rate) <= 1
