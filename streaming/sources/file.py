"""A file replayed in real time, as a source of live audio."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator

import torch

from asr.audio import SAMPLE_RATE, blocks, source_name
from asr.config import require
from streaming.sources.base import BaseSource

__all__ = ["FileReplay"]

_READ_SECONDS = 5.0  # how much of a file to decode at a time


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
