"""Uploaded files, recognised by the engine that has the live streams.

They are read and cut in one thread of their own, and decoded a span at a time between two steps of the streams. So they
take turns, some seconds of audio each: a short file does not wait for a long one, nor a stream for a file. Memory is
that of a block and a span of each, whatever their length.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, blocks
from asr.audio.decode import duration_seconds
from asr.audio.segment import SegmentConfig, Span, steps
from asr.errors import AudioError, SpellstreamError
from asr.transcript import Segment
from streaming.server.service import Service

__all__ = ["FileDecoder", "Part", "TooLongError"]

# Shorter than where nobody waits: live streams stand still while a span is decoded.
_SPANS = SegmentConfig(max_seconds=10.0)
_BLOCK_SECONDS = 5.0
_END = Span(math.inf, torch.zeros(0))
_NAME = "file"  # stands for the file in errors: its real name is private to the client
_LOG = logging.getLogger(__name__)


class TooLongError(AudioError):
    """A file holds more audio than one may."""


class Part(NamedTuple):
    """What was said in the next stretch of a file (None: nothing), and up to where it has been read."""

    segment: Segment | None
    read_seconds: float


class FileDecoder:
    """Turns files into segments, one thread reading for all of them.

    Args:
        service: whose engine decodes, and whose limit on the length of a stream is that of a file.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = ThreadPoolExecutor(1, "spellstream-files")

    async def parts(self, file: IO[bytes]) -> AsyncGenerator[Part, None]:
        """Decode a file, open in binary mode and on disk; closed or cancelled, this reads no further.

        The file is read through a descriptor of its own: the caller may close his at any time.

        Yields:
            A `Part` for each span of speech, in order; one without a segment at the end of the file, and now and then
            before that.

        Raises:
            AudioError: it cannot be read; TooLongError: it is longer than `max_stream_seconds`.
            OverloadError: the server is being stopped before the file is done, or has failed.
        """
        reading = _Reading(file, self._service.config.limits.max_stream_seconds)
        service, recogniser = self._service, self._service.recogniser
        search = replace(service.engine.final, nbest=1)
        loop = asyncio.get_running_loop()
        try:
            while (span := await service.before_stop(loop.run_in_executor(self._reader, reading.step))) is not _END:
                segment = None
                if span is not None:
                    (segment,) = await service.before_stop(
                        service.run(recogniser.decode, [span.waveform], search, True)
                    )
                    segment = segment.shifted(span.start_seconds) if segment.text else None
                yield Part(segment, reading.seconds)
            yield Part(None, reading.seconds)
        finally:
            reading.stop()
            self._reader.submit(reading.close)  # after the read that may be under way


class _Reading:
    """A file on its way through the reader's thread."""

    def __init__(self, file: IO[bytes], max_seconds: float) -> None:
        self._file = cast(BinaryIO, os.fdopen(os.dup(file.fileno()), "rb"))
        self._max_seconds = max_seconds
        self._stopped = threading.Event()
        self._steps = self._read()
        self.seconds = 0.0

    def step(self) -> Span | None:
        """Read on to the next span of speech, or for some seconds without one; `_END` at the end."""
        return next(self._steps, _END)

    def stop(self) -> None:
        """From any thread: do not finish the read that is under way."""
        self._stopped.set()

    def close(self) -> None:
        self._steps.close()
        self._file.close()

    def _read(self) -> Generator[Span | None, None, None]:
        try:
            # The header's length is the cheapest to check, but need not be true.
            self._check(duration_seconds(self._file) or 0.0)
            with contextlib.closing(blocks(self._file, block_seconds=_BLOCK_SECONDS)) as read:
                yield from steps(self._counted(read), _SPANS)
        except AudioError as error:
            raise type(error)(_NAME, error.reason) from error
        except SpellstreamError:
            raise
        except Exception as error:  # of any library: a fault of this file, not of the server
            _LOG.warning("an uploaded file could not be decoded", exc_info=True)
            raise AudioError(_NAME, "cannot be decoded: it is damaged, or its format is not supported") from error

    def _counted(self, read: Iterator[Tensor]) -> Iterator[Tensor]:
        samples = 0
        for block in read:
            samples += len(block)
            self.seconds = samples / SAMPLE_RATE
            self._check(self.seconds)
            if self._stopped.is_set():
                return
            yield block

    def _check(self, seconds: float) -> None:
        if seconds > self._max_seconds:
            raise TooLongError(_NAME, f"is longer than the {self._max_seconds:g} s that are allowed")
