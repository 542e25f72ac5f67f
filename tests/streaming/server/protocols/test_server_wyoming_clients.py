"""Wyoming clients that leave out an event or send unusual audio: each gets an answer instead of waiting forever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from tests.support.serving import Running
from tests.support.wyoming import converse, pcm16, transcript


@pytest.fixture(scope="module")
def samples(repository_root: Path) -> np.ndarray:
    return pcm16(audio.load(repository_root / "recipes/sample.flac"))


def said(port: int, pcm: bytes, **options: int) -> str:
    return transcript(asyncio.run(converse(port, pcm, **options)))


@pytest.mark.parametrize("started", [True, False])
def test_a_stop_without_audio_is_answered_by_an_empty_transcript(port: int, started: bool) -> None:
    """A bare audio-stop was never answered."""
    answers = asyncio.run(converse(port, b"", started=started))
    assert [answer.type for answer in answers] == ["transcript-start", "transcript", "transcript-stop"]
    assert transcript(answers) == ""


def test_chunks_without_a_start_are_a_stream(port: int, samples: np.ndarray) -> None:
    """The audio was discarded and the stop never answered, though every chunk carries the format."""
    assert said(port, samples.tobytes(), started=False) == said(port, samples.tobytes()) != ""


def test_channels_that_cancel_are_heard(port: int, samples: np.ndarray) -> None:
    """Opposite-phase channels, as from a balanced line, are heard: their mean would be silence."""
    stereo = np.stack([samples, -samples], axis=1)
    expected = said(port, samples.tobytes())
    assert said(port, stereo.tobytes(), channels=2) == expected != ""
    assert said(port, stereo.tobytes(), channels=2, cut=1001, started=False) == expected


def test_all_of_a_short_stream_is_heard(wyoming: Running, port: int) -> None:
    """Channels are mixed in windows: the samples of the last, incomplete window are pushed too."""
    frames = np.ones((12_345, 2), "<i2")
    before = heard_seconds(wyoming)
    asyncio.run(converse(port, frames.tobytes(), channels=2))
    assert heard_seconds(wyoming) - before == pytest.approx(12_345 / 16_000, abs=1e-4)


def heard_seconds(wyoming: Running) -> float:
    value = wyoming.service.metrics.registry.get_sample_value("spellstream_audio_seconds_total")
    assert value is not None
    return value
