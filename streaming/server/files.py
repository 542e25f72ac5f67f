"""Uploaded files, decoded by the engine that the live streams use.

One thread reads the files and cuts them into spans of speech; each span is decoded between two turns of the streams. So
files and streams alternate, some seconds of audio each: a short file does not wait for a long one, nor a stream for a
file. Each file takes the memory of one block and one span, whatever its length.
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
from asr.writing.hotwords import Hotwords
from asr.writing.writer import Context
from streaming.server.service import Service

__all__ = ["FileDecoder", "Part", "TooLongError"]

# Shorter than for files alone: live streams wait while a span is decoded.
_SPANS = SegmentConfig(max_seconds=10.0)
_BLOCK_SECONDS = 5.0
_END = Span(math.inf, torch.zeros(0))
_NAME = "file"  # stands for the file in errors: its real name is private to the client
_LOG = logging.getLogger(__name__)


class TooLongError(AudioError):
    """A file is longer than `max_stream_seconds`."""


class Part(NamedTuple):
    """The next segment of a file, or None where there was no speech; and how far the file has been read."""

    segment: Segment | None
    read_seconds: float


class FileDecoder:
    """Decodes files into segments; one thread reads all of them.

    Args:
        service: decodes the spans; its `max_stream_seconds` bounds the length of a file, too.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = ThreadPoolExecutor(1, "spellstream-files")

    async def parts(self, file: IO[bytes], hotwords: Hotwords | None = None) -> AsyncGenerator[Part, None]:
        """Decode a file.

        It is read through a descriptor of its own, so the caller may close the original at any time. Closing or
        cancelling the generator ends the reading.

        Args:
            file: a file on disk, open in binary mode.
            hotwords: what `Service.hotwords` returned; None: those of the server.

        Yields:
            A `Part` for each span of speech, in order; some without a segment where there is no speech for long, and
            one at the end of the file.

        Raises:
            AudioError: it cannot be decoded.
            TooLongError: it is longer than `max_stream_seconds`.
            OverloadError: the server was stopped before the end of the file, or has failed.
        """
        reading = _Reading(file, self._service.config.limits.max_stream_seconds)
        service, recogniser = self._service, self._service.recogniser
        search = replace(service.engine.final, nbest=1)
        hotwords = hotwords or service.config.hotwords
        writer = service.engine.writer if service.config.stream.style == "written" else None
        context = Context()
        before_deadline, loop = service.stop.before_deadline, asyncio.get_running_loop()
        try:
            while True:
                span = await before_deadline(loop.run_in_executor(self._reader, reading.step))
                if span is _END:
                    break
                segment = None
                if span is not None:
                    decoding = service.run(recogniser.decode, [span.waveform], search, True, hotwords)
                    (segment,) = await before_deadline(decoding)
                    segment = segment.shifted(span.start_seconds) if segment.text else None
                if segment is not None and writer is not None:
                    writing = service.run(writer.write, [segment], [context], [hotwords])
                    ((segment, context),) = await before_deadline(writing)
                yield Part(segment, reading.seconds)
            yield Part(None, reading.seconds)
        finally:
            reading.stop()
            self._reader.submit(reading.close)  # after the current read


class _Reading:
    """A file that the reader's thread reads step by step."""

    def __init__(self, file: IO[bytes], max_seconds: float) -> None:
        self._file = cast(BinaryIO, os.fdopen(os.dup(file.fileno()), "rb"))
        self._max_seconds = max_seconds
        self._stopped = threading.Event()
        self._steps = self._read()
        self.seconds = 0.0

    def step(self) -> Span | None:
        """Read up to the next span of speech, or some seconds without one (None); `_END` at the end of the file."""
        return next(self._steps, _END)

    def stop(self) -> None:
        """End the current read early; may be called from any thread."""
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
            raise TooLongError(_NAME, f"is longer than {self._max_seconds:g} s, which is the limit")
