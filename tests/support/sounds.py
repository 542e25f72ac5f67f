"""Small audio files, and the one line that says why a source cannot be read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError


class Pipe(io.BytesIO):
    """Bytes that can be read once, as from a pipe."""

    def seekable(self) -> bool:
        return False


def tone(seconds: float = 0.5, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Any, data: np.ndarray, rate: int = SAMPLE_RATE, **options: Any) -> Any:
    soundfile.write(path, data, rate, **options)
    return path


WAV = write(io.BytesIO(), tone(), format="WAV").getvalue()


def reason(source: Any, **options: Any) -> str:
    """The one line that says why a source cannot be read."""
    with pytest.raises(AudioError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == f"{caught.value.source}: {caught.value.reason}"
    return str(caught.value)
