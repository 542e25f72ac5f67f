"""A microphone as a source of live audio."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator

import torch

from asr.config import require
from asr.errors import DeviceError, SourceError
from streaming.sources.base import BaseSource
from streaming.sources.capture import Capture
from streaming.sources.devices import Device, find_device, refresh

__all__ = ["Microphone"]


class Microphone(BaseSource):
    """A microphone, opened at its own rate and with its own channels, which are averaged.

    It listens from construction on. What is not read in time is kept for `buffer_seconds`; then the oldest is dropped
    and counted in `dropped_seconds`. When the device goes away, what was captured is delivered first.

    Args:
        device: a number, a name or a part of one; None: the system's default.
        buffer_seconds: how late the reader may be.
        reconnect: when the device goes away, try about every `retry_seconds` to open it again rather than raise.
        timeout_seconds: a device that sends nothing for so long has gone away.
        retry_seconds: see `reconnect`.
        notify: is told in one line when the device goes and when it is back, in the thread that reads.

    Raises:
        DependencyError: PortAudio is not installed.
        DeviceError: there is no such device, more than one, or it cannot be opened.
        SourceError: when iterating: the device went away.
    """

    def __init__(
        self,
        device: int | str | None = None,
        *,
        buffer_seconds: float = 30.0,
        reconnect: bool = False,
        timeout_seconds: float = 5.0,
        retry_seconds: float = 1.0,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        require(buffer_seconds > 0, "buffer_seconds", buffer_seconds, "positive")
        require(timeout_seconds > 0, "timeout_seconds", timeout_seconds, "positive")
        require(retry_seconds > 0, "retry_seconds", retry_seconds, "positive")
        self._buffer_seconds = buffer_seconds
        self._reconnect = reconnect
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._notify = notify or (lambda line: None)
        self._capture = Capture(find_device(device), buffer_seconds)
        super().__init__(self._capture.name)
        # A number may mean another device once this one has gone away.
        self._wanted = device
        if isinstance(device, int) or (device is not None and device.strip().isdecimal()):
            self._wanted = self.device.name
        self._lost_seconds = 0.0
        self._dropped_before = 0.0  # by captures that have ended
        self._overflows_before = 0

    @property
    def device(self) -> Device:
        return self._capture.device

    @property
    def dropped_seconds(self) -> float:
        return self._dropped_before + self._capture.buffer.dropped_seconds

    @property
    def lost_seconds(self) -> float:
        return self._lost_seconds

    @property
    def overflows(self) -> int:
        return self._overflows_before + self._capture.overflows

    def stop(self) -> None:
        super().stop()
        self._capture.buffer.close()

    def close(self) -> None:
        self.stop()
        self._capture.close()

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        while True:
            if self._stopping:  # perhaps while the device was being opened
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
        """Deliver what one capture brings until it ends, and return why it did."""
        problem = "has gone away (unplugged, or its sound server has ended)"
        while not capture.buffer.finished:
            samples = capture.read()
            if len(samples):
                yield capture.resampler.step(samples)
            elif time.monotonic() - capture.heard_at > self._timeout_seconds and not capture.buffer.finished:
                problem = f"has sent nothing for {self._timeout_seconds:g} s"
                capture.buffer.close()
        capture.close()
        yield capture.resampler.flush()
        return problem

    def _reopen(self) -> bool:
        """Try until the device is open again; return False if asked to stop before it is."""
        gone = self._capture
        while True:
            self._wake.wait(self._retry_seconds)
            if self._stopping:
                return False
            if gone in Capture.held:  # still hanging; another would too
                continue
            with contextlib.suppress(DeviceError):
                if not Capture.held:  # others would not survive it
                    refresh()
                self._capture = Capture(find_device(self._wanted), self._buffer_seconds)
                self._dropped_before += gone.buffer.dropped_seconds
                self._overflows_before += gone.overflows
                return True
