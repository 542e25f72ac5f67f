"""The list of microphones, from sounddevice, which is built on the PortAudio library."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

from asr.errors import DependencyError, DeviceError

__all__ = ["Device", "devices", "find_device", "load_sounddevice", "refresh"]


@dataclass(frozen=True)
class Device:
    """An audio input as listed by the system."""

    index: int
    name: str
    channels: int
    sample_rate: int  # its own, in Hz; 0 if the driver does not report one
    host_api: str
    is_default: bool

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        rate = self.rate_text if self.sample_rate > 0 else "rate unknown"
        return f"{self.index}: {self.name} ({self.host_api}, {channels}, {rate})"

    @property
    def rate_text(self) -> str:
        """Its own sample rate as text for users."""
        return f"{self.sample_rate} Hz" if self.sample_rate > 0 else "unknown"


def devices() -> list[Device]:
    """The audio inputs, in the system's order.

    Raises:
        DependencyError: PortAudio is not installed.
        DeviceError: the system's audio devices cannot be listed.
    """
    sounddevice = load_sounddevice()
    try:
        default = int(sounddevice.default.device[0])
        host_apis = [str(api["name"]) for api in sounddevice.query_hostapis()]
        found = list(enumerate(sounddevice.query_devices()))
    except sounddevice.PortAudioError as error:
        raise DeviceError(f"the audio devices cannot be listed: {error}") from error
    return [
        Device(
            index=index,
            name=str(info["name"]),
            channels=int(info["max_input_channels"]),
            sample_rate=round(rate) if math.isfinite(rate := float(info["default_samplerate"])) else 0,
            host_api=host_apis[info["hostapi"]],
            is_default=index == default,
        )
        for index, info in found
        if info["max_input_channels"] > 0
    ]


def find_device(wanted: int | str | None = None) -> Device:
    """Find one audio input.

    Args:
        wanted: its number, its name or a part of that (upper or lower case), or None: the system's default or, if the
            system names none, the only input.

    Raises:
        DependencyError: PortAudio is not installed.
        DeviceError: no input matches, or more than one; the message lists those to choose from.
    """
    inputs = devices()
    if not inputs:
        raise DeviceError("there is no microphone: the system lists no audio input")
    if wanted is None:
        matches = inputs if len(inputs) == 1 else [device for device in inputs if device.is_default]
        problem = "the system names no default microphone: choose one of"
    elif isinstance(wanted, int) or wanted.strip().isdecimal():
        matches = [device for device in inputs if device.index == int(wanted)]
        problem = f"no microphone has the number {int(wanted)}; there are"
    else:
        name = wanted.strip().casefold()
        exact = [device for device in inputs if device.name.casefold() == name]
        matches = exact or [device for device in inputs if name in device.name.casefold()]
        problem = f"no microphone is called {wanted!r}; there are"
    if len(matches) == 1:
        return matches[0]
    if matches:
        problem = f"more than one microphone is called {wanted!r}"
    raise DeviceError(f"{problem}: " + "; ".join(map(str, matches or inputs)))


def refresh() -> None:
    """Update the list of devices by restarting PortAudio, which ends every open stream of this process.

    Raises:
        DependencyError: PortAudio is not installed.
        DeviceError: PortAudio does not restart.
    """
    sounddevice = load_sounddevice()
    with contextlib.suppress(sounddevice.PortAudioError):  # the last refresh may have failed
        sounddevice._terminate()
    try:
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise DeviceError(f"the audio devices cannot be listed: {error}") from error


def load_sounddevice() -> Any:
    """The sounddevice module.

    Raises:
        DependencyError: PortAudio is not installed.
    """
    try:
        import sounddevice
    except OSError as error:
        raise DependencyError(
            "microphones need the PortAudio library, which is not installed: apt install libportaudio2"
        ) from error
    return sounddevice
