"""A stand-in for the sounddevice module, with as many devices as a test wants and a callback that it calls itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class FakeStream:
    """What `InputStream` returns; the test plays the part of the audio system's own thread."""

    def __init__(self, system: FakeSounddevice, **options: Any) -> None:
        if system.refuses:
            raise system.PortAudioError(system.refuses)
        self.options = options
        self.state = "open"
        system.streams.append(self)

    def start(self) -> None:
        self.state = "started"

    def abort(self) -> None:
        self.state = "stopped"
        self.options["finished_callback"]()

    def close(self) -> None:
        self.state = "closed"

    def send(self, block: np.ndarray, overflow: bool = False) -> None:
        """Call back with `(samples, channels)` or, for one channel, `(samples,)`, in memory that is then reused."""
        block = np.float32(block).reshape(len(block), -1).copy()
        assert block.shape[1] == self.options["channels"]
        self.options["callback"](block, len(block), None, SimpleNamespace(input_overflow=overflow))
        block[:] = np.nan

    def vanish(self) -> None:
        """The device is unplugged: the stream becomes inactive."""
        self.options["finished_callback"]()


class FakeSounddevice:
    """The part of sounddevice that Spellstream uses.

    Args:
        inputs: name, channels and rate of each device; one without channels is an output.
        default: the index of the default input, -1 for none.
    """

    class PortAudioError(Exception):
        pass

    def __init__(self, *inputs: tuple[str, int, float], default: int = 0) -> None:
        self.inputs = list(inputs)
        self.default = SimpleNamespace(device=(default, -1))
        self.streams: list[FakeStream] = []
        self.refuses = ""  # why no stream can be opened
        self.refreshed = 0
        self.on_refresh: Callable[[], None] = lambda: None

    def query_hostapis(self) -> tuple[dict[str, str], ...]:
        return ({"name": "ALSA"},)

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "hostapi": 0, "max_input_channels": channels, "default_samplerate": float(rate)}
            for name, channels, rate in self.inputs
        ]

    def InputStream(self, **options: Any) -> FakeStream:  # noqa: N802 - as it is called there
        return FakeStream(self, **options)

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        self.refreshed += 1
        self.on_refresh()

    def _exit_handler(self) -> None:
        pass

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeSounddevice:
        """Stand in for the real one until the test ends."""
        monkeypatch.setitem(sys.modules, "sounddevice", self)
        return self
