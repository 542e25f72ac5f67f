"""One opening of a microphone, from the moment it is there until it is given back or goes away."""

from __future__ import annotations

import atexit
import math
import threading
import time
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from asr.audio import Resampler
from asr.errors import DeviceError
from streaming.sources.devices import Device, load_sounddevice
from streaming.sources.ring_buffer import RingBuffer

__all__ = ["Capture"]

_BLOCK_SECONDS = 0.02  # how much the audio callback brings at a time
_CHUNK_SECONDS = 0.5  # the most that is read at a time, after the reader was late
_POLL_SECONDS = 0.25  # how long a read waits; then it is time to see whether the device is still there
_STOP_SECONDS = 2.0  # how long a device may take to stop
_MAX_CHANNELS = 8  # a device that claims more is virtual, or has sockets that nothing is plugged into


class Capture:
    """One opening of a device: from its audio callback to mono samples at its own rate.

    Raises:
        DependencyError: PortAudio is not installed.
        DeviceError: the device cannot be opened.
    """

    # Those whose device is held. Were one forgotten unclosed, its callback must not be collected while it is called.
    held: ClassVar[set[Capture]] = set()

    def __init__(self, device: Device, buffer_seconds: float) -> None:
        sounddevice = load_sounddevice()
        rate, channels = device.sample_rate, device.channels if device.channels <= _MAX_CHANNELS else 2
        self.device = device
        self.name = f"microphone {device.name!r}"
        self.buffer = RingBuffer(math.ceil(buffer_seconds * rate), rate, channels)
        self.resampler = Resampler(rate, self.name)
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
        except (sounddevice.PortAudioError, ValueError) as error:
            self.close()
            raise DeviceError(f"{self.name} cannot be opened at {rate} Hz, {channels} channels: {error}") from error

    def _callback(self, block: NDArray[np.float32], frames: int, times: object, status: Any) -> None:
        """Called in the audio system's own thread: copy and be gone."""
        self.buffer.write(block)
        self.heard_at = time.monotonic()
        if status.input_overflow:
            self.overflows += 1

    def read(self) -> torch.Tensor:
        """The next samples `(samples,)`, or none after a moment without any."""
        samples = self.buffer.read(_POLL_SECONDS, round(self.device.sample_rate * _CHUNK_SECONDS))
        return torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))

    def close(self) -> None:
        """Give the device back; where the sound system hangs, do not wait for that, now or at exit."""
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
