"""Raw PCM on standard input, as a source of live audio."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Generator

import torch

from asr.audio import SAMPLE_RATE
from asr.audio.pcm import ENCODINGS, decode
from asr.config import require
from asr.errors import AudioError
from streaming.sources.base import BaseSource
from streaming.sources.conversion import Conversion

__all__ = ["StandardInput"]

_STDIN_BYTES = 1 << 16


class StandardInput(BaseSource):
    """Raw PCM from standard input, delivered as soon as it arrives; the stream ends with the input.

        for event in streaming.listen(streaming.StandardInput(44_100, channels=2)):
            print(event.text)

    Args:
        sample_rate: of the samples, in Hz.
        channels: the number of interleaved channels; they become their mean or, where they cancel, the loudest one.
        encoding: one of `asr.audio.pcm.ENCODINGS`: "u8", "s16le", "s24le", "s32le" or "f32le".

    Raises:
        AudioError: the rate is out of bounds or standard input is closed; during iteration: it is empty, or a float is
            not finite.
        ConfigError: another setting is out of its bounds.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE, channels: int = 1, encoding: str = "s16le") -> None:
        require(channels > 0, "channels", channels, "positive")
        require(encoding in ENCODINGS, "encoding", encoding, f"one of {', '.join(ENCODINGS)}")
        super().__init__("standard input")
        self._conversion = Conversion(sample_rate, channels, self.name)
        self._channels, self._encoding = channels, encoding
        self._leftover = b""  # the first bytes of an incomplete frame
        if sys.stdin is None or sys.stdin.closed:
            raise AudioError(self.name, "is closed")
        self._input = sys.stdin.fileno()
        self._woken, self._waker = os.pipe()  # lets `stop` end a wait for input
        self._open = True

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        empty, last = True, False
        while not last:
            last = self._stopping  # the pipe's content now came before the stop: one more read takes all of it
            if (data := self._read()) is None:
                break
            empty = False
            frames, self._leftover = decode(self._leftover + data, self._encoding, self._channels)
            yield self._conversion.step(frames)
        if empty and self._delivered == 0 and not self._stopping:
            raise AudioError(self.name, "is empty (0 bytes)")
        yield self._conversion.flush()

    def _read(self) -> bytes | None:
        """Wait for bytes; None at the end of the input, or after a stop if there are none."""
        try:
            ready, _, _ = select.select([self._input, self._woken], [], [])
            return os.read(self._input, _STDIN_BYTES) or None if self._input in ready else None
        except OSError as error:
            raise AudioError(self.name, error.strerror or str(error)) from error

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
