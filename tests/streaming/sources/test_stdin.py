"""Raw PCM on standard input: all of it arrives, without delay."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from asr.audio import load
from asr.errors import AudioError, ConfigError
from streaming.sources import StandardInput
from tests.support.live_audio import noise, whole


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A file descriptor whose data arrives on standard input."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield writer
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(writer)


def send(writer: int, data: bytes, size: int) -> threading.Thread:
    def run() -> None:
        for start in range(0, len(data), size):
            os.write(writer, data[start : start + size])
        os.close(writer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "size"),
    [
        ("s16le", 16_000, 1, 1),
        ("s16le", 44_100, 2, 333),
        ("f32le", 48_000, 2, 777),
        ("f32le", 8_000, 1, 99_999),
        ("u8", 8_000, 1, 5),
        ("s32le", 16_000, 2, 4099),
    ],
)
def test_raw_samples_from_standard_input(feed: int, encoding: str, rate: int, channels: int, size: int) -> None:
    values = noise(0.05 if size == 1 else 0.5, rate, channels)
    kind, scale, offset = {
        "u8": ("u1", 127, 128),
        "s16le": ("<i2", 2**15 - 1, 0),
        "s32le": ("<i4", 2**31 - 1, 0),
        "f32le": ("<f4", 1, 0),
    }[encoding]
    stored = (values.astype(np.float64) * scale + offset).astype(kind)
    writer = send(feed, stored.tobytes() + bytes(stored.itemsize - 1), size)  # part of a sample at the end is ignored
    with StandardInput(rate, channels, encoding) as source:
        heard = whole(source)
    writer.join()
    assert torch.allclose(heard, load(stored, sample_rate=rate), atol=1e-6)


def test_channels_of_standard_input_that_cancel_are_heard(feed: int) -> None:
    values = np.round(noise(0.5, 16_000) * 32767).astype("<i2")
    writer = send(feed, np.concatenate([values, -values], axis=1).tobytes(), 3_001)
    with StandardInput(16_000, 2) as source:
        heard = whole(source)
    writer.join()
    assert torch.allclose(heard[1_000:], load(values, sample_rate=16_000)[1_000:], atol=1e-6)


def test_standard_input_does_not_wait_for_more(feed: int) -> None:
    with StandardInput() as source:
        chunks = iter(source)
        for _ in range(3):
            os.write(feed, b"\0\1" * 10)
            assert len(next(chunks)) == 10
        threading.Timer(0.1, source.stop).start()
        assert list(chunks) == []
    source.close()


def test_what_is_in_the_pipe_at_a_stop_is_still_delivered(feed: int) -> None:
    """At Ctrl-C, up to two seconds of speech were lost if the recogniser was behind."""
    with StandardInput() as source:
        os.write(feed, b"\0\1" * 30_000)
        source.stop()
        assert len(whole(source)) == 30_000


def test_a_stop_ends_an_input_that_never_does(feed: int) -> None:
    def zeros() -> None:
        with contextlib.suppress(OSError):
            while True:
                os.write(feed, bytes(4096))

    writer = threading.Thread(target=zeros, daemon=True)
    writer.start()
    with StandardInput() as source:
        chunks = iter(source)
        next(chunks)
        source.stop()
        assert sum(map(len, chunks)) <= 2 * 65_536
    sys.stdin.close()
    writer.join(10)


def test_an_empty_standard_input_is_an_error(feed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(feed)
    with StandardInput() as source, pytest.raises(AudioError, match="standard input: is empty"):
        list(source)
    with pytest.raises(AudioError, match="sample rate is 5 Hz"):
        StandardInput(5)
    with pytest.raises(ConfigError, match="encoding is 'mp3'"):
        StandardInput(encoding="mp3")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AudioError, match="standard input: is closed"):
        StandardInput()
