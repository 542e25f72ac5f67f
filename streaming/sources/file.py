"""A file replayed in real time, as a source of live audio."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator

import torch

from asr.audio import SAMPLE_RATE, blocks, source_name
from asr.audio.tracks import Track
from asr.config import require
from streaming.sources.base import BaseSource

__all__ = ["FileReplay"]

_READ_SECONDS = 5.0  # audio decoded at a time


class FileReplay(BaseSource):
    """An audio or video file as live audio: each chunk is delivered at the time of its last sample.

    A late reader gets all due chunks at once; nothing is dropped.

        for event in streaming.listen(streaming.FileReplay("talk.mp4", speed=None)):
            print(event.text)

    Args:
        path: any file that `asr.audio.blocks` reads.
        speed: 1 is real time, 2 twice as fast; None: as fast as the file can be read.
        chunk_ms: length of a chunk.
        track: audio track of the file, see `asr.audio.blocks`.

    Raises:
        ConfigError: a setting is out of its bounds.
        AudioError: during iteration: the file cannot be read to its end.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, speed: float | None = 1.0, chunk_ms: int = 100, track: Track = None
    ) -> None:
        require(speed is None or 0 < speed < math.inf, "speed", speed, "positive, or None")
        require(chunk_ms > 0, "chunk_ms", chunk_ms, "positive")
        super().__init__(source_name(path))
        self._path = path
        self._speed = speed
        self._track = track
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
        """The file in chunks of equal length; the last may be shorter."""
        leftover = torch.empty(0)
        with contextlib.closing(blocks(self._path, block_seconds=_READ_SECONDS, track=self._track)) as decoded:
            for block in decoded:
                *whole, leftover = torch.cat((leftover, block)).split(self._chunk_samples)
                yield from whole
        yield leftover

    def _wait_until(self, due: float) -> None:
        while not self._stopping and (remaining := due - time.monotonic()) > 0:
            self._wake.wait(remaining)
