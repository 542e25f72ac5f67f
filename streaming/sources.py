"""Where live audio comes from: a microphone, a file replayed in its own time, raw samples on standard input.

Each is an iterable of 16 kHz mono float32 tensors `(samples,)`, whatever the source's own rate and channels.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import time
from collections.abc import Callable, Generator
from typing import Literal

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, Resampler, blocks, source_name
from asr.config import require
from asr.errors import AudioError, DeviceError, SourceError
from streaming.audio_source import AudioSource, BaseSource
from streaming.capture import Capture
from streaming.devices import Device, devices, find_device, refresh

__all__ = ["AudioSource", "Device", "FileReplay", "Microphone", "StandardInput", "devices", "find_device"]

_STDIN_BYTES = 1 << 16
_READ_SECONDS = 5.0  # how much of a file to decode at a time


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


class FileReplay(BaseSource):
    """A file as if it were spoken now: each chunk comes when its last sample would have been heard.

    A reader that is late gets the chunks that have become due at once; nothing is dropped.

    Args:
        path: whatever `asr.audio.blocks` reads.
        speed: how many times as fast as real time; None: as fast as it is read.
        chunk_ms: how much comes at a time.

    Raises:
        ConfigError: a setting is out of its bounds. Iterating raises the AudioErrors of `asr.audio.blocks`.
    """

    def __init__(self, path: str | os.PathLike[str], *, speed: float | None = 1.0, chunk_ms: int = 100) -> None:
        require(speed is None or 0 < speed < math.inf, "speed", speed, "positive, or None")
        require(chunk_ms > 0, "chunk_ms", chunk_ms, "positive")
        super().__init__(source_name(path))
        self._path = path
        self._speed = speed
        self._chunk_samples = chunk_ms * SAMPLE_RATE // 1000

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        started, samples = time.monotonic(), 0
        with contextlib.closing(self._pieces()) as pieces:
            for piece in pieces:
                samples += len(piece)
                if self._speed is not None:
                    self._wait_until(started + samples / SAMPLE_RATE / self._speed)
                if self._stopping:
                    return
                yield piece

    def _pieces(self) -> Generator[torch.Tensor, None, None]:
        """The file in chunks of the asked-for length; the last may be shorter."""
        rest = torch.empty(0)
        with contextlib.closing(blocks(self._path, block_seconds=_READ_SECONDS)) as decoded:
            for block in decoded:
                *whole, rest = torch.cat((rest, block)).split(self._chunk_samples)
                yield from whole
        yield rest

    def _wait_until(self, due: float) -> None:
        while not self._stopping and (remaining := due - time.monotonic()) > 0:
            self._wake.wait(remaining)


class StandardInput(BaseSource):
    """Raw samples from standard input, delivered as soon as they come; the stream ends where the input does.

    Args:
        sample_rate: of the samples, in Hz.
        channels: how many there are, interleaved; they are averaged.
        encoding: "s16le" (16-bit integers) or "f32le" (32-bit floats), both with the low byte first.

    Raises:
        AudioError: the rate is out of bounds or standard input is closed; iterating: it is empty, or a float is not
            finite.
        ConfigError: another setting is out of its bounds.
    """

    def __init__(
        self, sample_rate: int = SAMPLE_RATE, channels: int = 1, encoding: Literal["s16le", "f32le"] = "s16le"
    ) -> None:
        require(channels > 0, "channels", channels, "positive")
        require(encoding in ("s16le", "f32le"), "encoding", encoding, "s16le or f32le")
        super().__init__("standard input")
        self._resampler = Resampler(sample_rate, self.name)
        self._channels = channels
        self._kind, self._scale = ("<i2", 2.0**-15) if encoding == "s16le" else ("<f4", 1.0)
        self._rest = b""  # the beginning of a sample
        if sys.stdin is None or sys.stdin.closed:
            raise AudioError(self.name, "is closed")
        self._input = sys.stdin.fileno()
        self._woken, self._waker = os.pipe()  # so that `stop` ends a wait for input
        self._open = True

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        empty, last = True, False
        while not last:
            last = self._stopping  # what a pipe holds by then came before, and one read takes it all
            if (data := self._read()) is None:
                break
            empty = False
            yield self._resampler.step(self._decode(data))
        if empty and self._delivered == 0 and not self._stopping:
            raise AudioError(self.name, "is empty (0 bytes)")
        yield self._resampler.flush()

    def _read(self) -> bytes | None:
        """Wait for some bytes and return them; None at the end, or after a stop if there are none."""
        try:
            ready, _, _ = select.select([self._input, self._woken], [], [])
            return os.read(self._input, _STDIN_BYTES) or None if self._input in ready else None
        except OSError as error:
            raise AudioError(self.name, error.strerror or str(error)) from error

    def _decode(self, data: bytes) -> torch.Tensor:
        """Bytes → `(samples,)`; those that are no whole sample yet wait for the next."""
        data = self._rest + data
        sample_bytes = np.dtype(self._kind).itemsize * self._channels
        whole = len(data) // sample_bytes * sample_bytes
        self._rest = data[whole:]
        values = np.frombuffer(data[:whole], dtype=self._kind).reshape(-1, self._channels)
        return torch.from_numpy(values.mean(axis=1, dtype=np.float32) * np.float32(self._scale))

    def stop(self) -> None:
        first = not self._stopping
        super().stop()
        if first and self._open:
            os.write(self._waker, b"\0")

    def close(self) -> None:
        self.stop()
        if self._open:
            self._open = False
            os.close(self._woken)
            os.close(self._waker)
