"""Replay of a file: its audio, in real time."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError, ConfigError
from streaming.sources import FileReplay
from tests.support.live_audio import noise


def test_a_replayed_file_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.23, 44_100, 2), 44_100)
    with FileReplay(path, speed=None, chunk_ms=20) as source:
        chunks = list(source)
    assert {len(chunk) for chunk in chunks[:-1]} == {320}
    assert 0 < len(chunks[-1]) <= 320
    assert torch.equal(torch.cat(chunks), load(path))
    assert source.name == str(path)


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_file_is_replayed_in_time(tmp_path: Path, speed: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0, SAMPLE_RATE), SAMPLE_RATE)
    source, started, samples = FileReplay(path, speed=speed), time.monotonic(), 0
    for chunk in source:
        samples += len(chunk)
        assert time.monotonic() - started >= samples / SAMPLE_RATE / speed - 0.001
    assert time.monotonic() - started < 1 / speed + 1


def test_a_replay_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(30.0, SAMPLE_RATE), SAMPLE_RATE)
    with FileReplay(path, chunk_ms=20_000) as source:
        threading.Timer(0.1, source.stop).start()
        assert list(source) == []


def test_a_replay_checks_its_settings(tmp_path: Path) -> None:
    for options in ({"speed": 0.0}, {"speed": -1.0}, {"speed": math.inf}, {"chunk_ms": 0}):
        with pytest.raises(ConfigError):
            FileReplay(tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="no such file"):
        list(FileReplay(tmp_path / "none.wav"))
