"""A small model and a recording for the commands that listen."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from asr.config import SearchConfig
from tests.support.small_model import small_model


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"), SearchConfig(beam_size=2))


@pytest.fixture(scope="package")
def talk(tmp_path_factory: pytest.TempPathFactory, recordings: list[torch.Tensor]) -> Path:
    """Two stretches of speech and a silence between them."""
    first, second = (waveform[:32_000] for waveform in recordings[:2])
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, torch.cat([first, torch.zeros(24_000), second]).numpy(), 16_000, subtype="PCM_16")
    return path
