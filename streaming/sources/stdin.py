"""Raw samples on standard input, as a source of live audio."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Generator
from typing import Literal

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, Resampler
from asr.config import require
from asr.errors import AudioError
from streaming.sources.base import BaseSource

__all__ = ["StandardInput"]

_STDIN_BYTES = 1 << 16


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
