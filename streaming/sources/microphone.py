"""A microphone as a source of live audio."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator

import torch

from asr.config import require
from asr.errors import DeviceError, SourceError
from streaming.sources.base import BaseSource
from streaming.sources.capture import Capture, CaptureFormat, open_capture
from streaming.sources.devices import Device, find_device, refresh

__all__ = ["Microphone"]

_LOG = logging.getLogger(__name__)


class Microphone(BaseSource):
    """A microphone, opened with its own rate and channels or, if it refuses these, with others.

    Capture starts at construction. Unread audio is kept for `buffer_seconds`; then the oldest is dropped and counted in
    `dropped_seconds`. Several channels become their mean or, where they cancel, the loudest of them. If the device goes
    away, the audio captured before is delivered first.

        with streaming.Microphone("usb") as microphone:
            for chunk in microphone:  # 16 kHz mono float32 (samples,)
                print(f"{microphone.level:.0f} dB")

    Args:
        device: a number, a name or a part of one; None: the system's default, or the only one there is.
        sample_rate: the rate to open the device at, in Hz; None: its own or, if it refuses that, a usual one.
        channels: the number of channels to open it with; None: its own or, if it refuses that, 1 or 2.
        buffer_seconds: capacity of the buffer for audio that is not yet read.
        reconnect: if the device goes away, try to reopen it about every `retry_seconds` instead of raising an error.
        timeout_seconds: a device that sends nothing for this long counts as gone away.
        retry_seconds: see `reconnect`.
        notify: receives one line when the device is opened with other settings than its own, goes away, or returns;
            called in the reading thread. None: these lines are logged as warnings.

    Raises:
        AudioError: `sample_rate` is out of bounds; during iteration: a sample is NaN or infinite.
        ConfigError: another setting is out of its bounds.
        DependencyError: PortAudio is not installed.
        DeviceError: there is no such device, more than one, or it cannot be opened.
        SourceError: during iteration: the device went away.
    """

    def __init__(
        self,
        device: int | str | None = None,
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        buffer_seconds: float = 30.0,
        reconnect: bool = False,
        timeout_seconds: float = 5.0,
        retry_seconds: float = 1.0,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        require(channels is None or channels > 0, "channels", channels, "positive")
        require(buffer_seconds > 0, "buffer_seconds", buffer_seconds, "positive")
        require(timeout_seconds > 0, "timeout_seconds", timeout_seconds, "positive")
        require(retry_seconds > 0, "retry_seconds", retry_seconds, "positive")
        self._sample_rate, self._channels = sample_rate, channels
        self._buffer_seconds = buffer_seconds
        self._reconnect = reconnect
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._notify = notify or _LOG.warning
        self._capture = self._open(device)
        super().__init__(self._capture.name)
        # A number may mean another device once this one has gone away.
        self._wanted = device
        if isinstance(device, int) or (device is not None and device.strip().isdecimal()):
            self._wanted = self.device.name
        self._lost_seconds = 0.0
        self._dropped_before = 0.0  # in captures that have ended
        self._overflows_before = 0

    @property
    def device(self) -> Device:
        """The device that is currently open."""
        return self._capture.device

    @property
    def capture_format(self) -> CaptureFormat:
        """The rate and number of channels in use."""
        return self._capture.format

    @property
    def dropped_seconds(self) -> float:
        return self._dropped_before + self._capture.buffer.dropped_seconds

    @property
    def lost_seconds(self) -> float:
        return self._lost_seconds

    @property
    def overflows(self) -> int:
        return self._overflows_before + self._capture.overflows

    def _open(self, device: int | str | None) -> Capture:
        found = find_device(device)
        return open_capture(found, self._buffer_seconds, self._sample_rate, self._channels, self._notify)

    def stop(self) -> None:
        super().stop()
        self._capture.buffer.close()

    def close(self) -> None:
        self.stop()
        self._capture.close()

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        while True:
            if self._stopping:  # stopped while the device was being opened
                self._capture.buffer.close()
            problem = yield from self._listen(self._capture)
            if self._stopping:
                return
            if not self._reconnect:
                raise SourceError(self.name, problem)
            self._notify(f"{self.name} {problem}; trying to open it again")
            gone_at = self._capture.heard_at
            back = self._reopen()
            away_seconds = time.monotonic() - gone_at
            self._lost_seconds += away_seconds
            if not back:
                return
            self._notify(f"{self.name} is back after {away_seconds:.1f} s")

    def _listen(self, capture: Capture) -> Generator[torch.Tensor, None, str]:
        """Deliver the audio of one capture until it ends; return the reason."""
        problem = "has gone away (unplugged, or its sound server has ended)"
        while not capture.buffer.finished:
            yield capture.read()
            if time.monotonic() - capture.heard_at > self._timeout_seconds and not capture.buffer.finished:
                problem = f"has sent nothing for {self._timeout_seconds:g} s"
                capture.buffer.close()
        capture.close()
        yield capture.conversion.flush()
        return problem

    def _reopen(self) -> bool:
        """Try until the device is open again; False if stopped first."""
        gone = self._capture
        while True:
            self._wake.wait(self._retry_seconds)
            if self._stopping:
                return False
            if gone in Capture.held:  # closing it hangs, and so would opening it again
                continue
            with contextlib.suppress(DeviceError):
                if not Capture.held:  # a refresh ends every open stream
                    refresh()
                self._capture = self._open(self._wanted)
                self._dropped_before += gone.buffer.dropped_seconds
                self._overflows_before += gone.overflows
                return True
