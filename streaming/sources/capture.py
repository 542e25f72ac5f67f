"""Opening a microphone with a rate and channels that it accepts, and capture from it until it is closed."""

from __future__ import annotations

import atexit
import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asr.errors import DeviceError
from streaming.sources.conversion import Conversion
from streaming.sources.devices import Device, load_sounddevice
from streaming.sources.ring_buffer import RingBuffer

__all__ = ["Capture", "CaptureFormat", "open_capture"]

_BLOCK_SECONDS = 0.02  # audio in one callback
_CHUNK_SECONDS = 0.5  # longest audio returned by one read if the reader is late
_POLL_SECONDS = 0.25  # time that a read waits before the reader checks whether the device still exists
_STOP_SECONDS = 2.0  # time allowed for a device to stop
_MAX_CHANNELS = 8  # a device with more is virtual, or has unused sockets

# Tried in this order if a device refuses its own rate or channel count.
_OTHER_RATES = (48_000, 44_100, 16_000, 32_000, 8_000)
_OTHER_CHANNELS = (1, 2)
_DEVICE_UNAVAILABLE = -9985  # PortAudio's code for a device in use, which accepts no other format either


class CaptureFormat(NamedTuple):
    """The format in which a device is opened."""

    sample_rate: int  # in Hz
    channels: int

    def __str__(self) -> str:
        return f"{self.sample_rate} Hz, {self.channels} {'channel' if self.channels == 1 else 'channels'}"


class Capture:
    """One capture from a device: from its audio callback to 16 kHz mono samples.

    Args:
        device: the microphone.
        capture_format: the rate and the number of channels to open it with.
        buffer_seconds: the capacity of the buffer between the callback and `read`.

    Raises:
        AudioError: the rate is out of bounds.
        DependencyError: PortAudio is not installed.
        sounddevice.PortAudioError: the device refuses.
        ValueError: sounddevice refuses the settings.
    """

    # Captures with an open device. A capture without other references must not be collected while its callback runs.
    held: ClassVar[set[Capture]] = set()

    def __init__(self, device: Device, capture_format: CaptureFormat, buffer_seconds: float) -> None:
        sounddevice = load_sounddevice()
        rate, channels = self.format = capture_format
        self.device = device
        self.name = f"microphone {device.name!r}"
        self.conversion = Conversion(rate, channels, self.name)
        self.buffer = RingBuffer(math.ceil(buffer_seconds * rate), rate, channels)
        self.overflows = 0
        self.heard_at = time.monotonic()

        self._stop_everything_at_exit = sounddevice._exit_handler
        self._closer = threading.Thread(target=self._release, name="close-microphone", daemon=True)
        self._closing = threading.Lock()
        self._stream: Any = None
        try:
            self._stream = sounddevice.InputStream(
                samplerate=rate,
                blocksize=round(rate * _BLOCK_SECONDS),
                device=device.index,
                channels=channels,
                dtype="float32",
                callback=self._callback,
                finished_callback=self.buffer.close,
            )
            Capture.held.add(self)
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError):
            self.close()
            raise

    def _callback(self, block: NDArray[np.float32], frames: int, times: object, status: Any) -> None:
        """Copy a block; called in the audio system's own thread."""
        self.buffer.write(block)
        self.heard_at = time.monotonic()
        if status.input_overflow:
            self.overflows += 1

    def read(self) -> torch.Tensor:
        """The next samples at 16 kHz, `(samples,)`; empty if none have arrived for a moment."""
        frames = self.buffer.read(_POLL_SECONDS, round(self.format.sample_rate * _CHUNK_SECONDS))
        return self.conversion.step(frames)

    def close(self) -> None:
        """Release the device, without waiting for a sound system that hangs, now or at exit."""
        self.buffer.close()
        with self._closing:
            if self._closer.ident is None:
                self._closer.start()
        self._closer.join(_STOP_SECONDS)
        if self._closer.is_alive():
            atexit.unregister(self._stop_everything_at_exit)

    def _release(self) -> None:
        if self._stream is not None:
            self._stream.abort()
            self._stream.close()
        Capture.held.discard(self)


def open_capture(
    device: Device,
    buffer_seconds: float,
    sample_rate: int | None = None,
    channels: int | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Capture:
    """Open a device with its own rate and channels or, if it refuses these, with others that it accepts.

    Args:
        device: the microphone.
        buffer_seconds: see `Capture`.
        sample_rate: the only rate to try, in Hz; None: the device's own, then others.
        channels: the only number of channels to try; None: the device's own, then 1 and 2.
        notify: receives one line if the device's own settings were refused and others are used.

    Raises:
        AudioError: the rate is out of bounds.
        DependencyError: PortAudio is not installed.
        DeviceError: the device accepts none of the settings, or is in use.
    """
    sounddevice = load_sounddevice()
    formats = _formats(device, sample_rate, channels)
    problem = ""
    for one in formats:
        try:
            if problem:  # cheaper than opening it
                sounddevice.check_input_settings(
                    device=device.index, channels=one.channels, dtype="float32", samplerate=one.sample_rate
                )
            capture = Capture(device, one, buffer_seconds)
        except (sounddevice.PortAudioError, ValueError) as error:
            problem = problem or f"cannot be opened at {one}: {error}"
            if _DEVICE_UNAVAILABLE in error.args:
                break
            continue
        if problem:
            notify(f"{capture.name} {problem}; it is opened at {one}")
        return capture
    else:
        if len(formats) > 1:
            rates, counts = (", ".join(map(str, dict.fromkeys(values))) for values in zip(*formats, strict=True))
            problem += f"; all of {rates} Hz and {counts} channels were tried"

    if device.sample_rate <= 0 and sample_rate is None:
        problem = f"reports a sample rate of {device.sample_rate} Hz and {problem}"
    raise DeviceError(f"microphone {device.name!r} {problem}")


def _formats(device: Device, sample_rate: int | None, channels: int | None) -> list[CaptureFormat]:
    """The formats to try, best first. A rate of 0, which some drivers report, is ignored."""
    own_rate = (device.sample_rate,) if device.sample_rate > 0 else ()
    own_channels = device.channels if device.channels <= _MAX_CHANNELS else 2
    rates = [sample_rate] if sample_rate is not None else dict.fromkeys((*own_rate, *_OTHER_RATES))
    counts = [channels] if channels is not None else dict.fromkeys((own_channels, *_OTHER_CHANNELS))
    return [CaptureFormat(*pair) for pair in itertools.product(rates, counts)]
