"""A stub for the sounddevice module, with any devices; the test calls the callback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

MICROPHONES = (
    ("HDA Intel: ALC257 Analog (hw:0,0)", 2, 44_100),
    ("HDMI 0 (hw:0,3)", 0, 44_100),
    ("USB Audio: Rode NT (hw:1,0)", 1, 48_000),
    ("USB Audio: Webcam (hw:2,0)", 2, 32_000),
    ("pulse", 32, 44_100),
)

# Texts and codes of PortAudio: for settings that a device does not accept, and for a device that is in use.
INVALID_RATE = ("Invalid sample rate", -9997)
INVALID_CHANNELS = ("Invalid number of channels", -9998)
UNAVAILABLE = ("Device unavailable", -9985)


class FakeStream:
    """The object that `InputStream` returns; the test acts as the audio system's thread."""

    def __init__(self, system: FakeSounddevice, **options: Any) -> None:
        system.check_input_settings(options["device"], options["channels"], options["dtype"], options["samplerate"])
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
        """Call the callback with `(samples, channels)`, or `(samples,)` for one channel; the memory is then reused."""
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
        accepts: pairs of rate and channels that devices can be opened with; None: any.
    """

    class PortAudioError(Exception):
        def __str__(self) -> str:
            text, code = self.args
            return f"{text} [PaErrorCode {code}]"

    def __init__(
        self, *inputs: tuple[str, int, float], default: int = 0, accepts: set[tuple[int, int]] | None = None
    ) -> None:
        self.inputs, self.accepts = list(inputs), accepts
        self.default = SimpleNamespace(device=(default, -1))
        self.streams: list[FakeStream] = []
        self.refuses: tuple[str, int] | None = None  # error on opening a stream: text and code
        self.refreshed = 0
        self.on_refresh: Callable[[], None] = lambda: None

    def query_hostapis(self) -> tuple[dict[str, str], ...]:
        return ({"name": "ALSA"},)

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "hostapi": 0, "max_input_channels": channels, "default_samplerate": float(rate)}
            for name, channels, rate in self.inputs
        ]

    def check_input_settings(self, device: int, channels: int, dtype: str, samplerate: int) -> None:
        if self.refuses:
            raise self.PortAudioError(*self.refuses)
        if self.accepts is not None and (samplerate, channels) not in self.accepts:
            rates = {rate for rate, _ in self.accepts}
            raise self.PortAudioError(*(INVALID_CHANNELS if samplerate in rates else INVALID_RATE))

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
        """Replace the real module until the end of the test."""
        monkeypatch.setitem(sys.modules, "sounddevice", self)
        return self
