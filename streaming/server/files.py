"""Decoding of uploaded files by the same engine as the live streams.

One thread reads the files and cuts them into spans of speech, as `transcribe` does. Several spans are decoded together,
in steps; between the steps, streams and other files take their turns, so a short file does not wait for a long one, nor
a stream for a file. Each worker decodes a batch of a file while reading continues. A file takes the
memory of one block and twice `_AHEAD` spans, whatever its length.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import SAMPLE_RATE, blocks
from asr.audio.decode import duration_seconds
from asr.audio.segment import Span, steps
from asr.config import SearchConfig
from asr.errors import AudioError, SpellstreamError
from asr.packing import pack
from asr.recogniser import Recogniser
from asr.steps import Steps
from asr.transcript import Segment
from asr.writing.hotwords import Hotwords
from asr.writing.writer import Context
from streaming.server.service import Service

__all__ = ["FileDecoder", "Part", "TooLongError"]

_AHEAD = 64  # largest number of spans read ahead and sorted by length; more of them mean less padding
_BATCH = 16  # spans decoded together
_STEPS = 8  # reading steps per span, some seconds each, after which the spans found so far are decoded
_BLOCK_SECONDS = 5.0
_END = Span(math.inf, torch.zeros(0))
_NAME = "file"  # stands for the file in errors: its real name is private to the client
_LOG = logging.getLogger(__name__)


class TooLongError(AudioError):
    """A file is longer than `max_stream_seconds`."""


class Part(NamedTuple):
    """The next segment of a file (None at its end), and the position up to which the file has been read."""

    segment: Segment | None
    read_seconds: float


class FileDecoder:
    """Decodes files into segments; one thread reads all of them.

    Args:
        service: decodes the spans; its `max_stream_seconds` also limits the length of a file.
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
            hotwords: from `Service.hotwords`; None: the server's.

        Yields:
            A `Part` for each segment, in order, and one without a segment at the end of the file.

        Raises:
            AudioError: it cannot be decoded.
            TooLongError: it is longer than `max_stream_seconds`.
            OverloadError: the server was stopped before the end of the file, or has failed.
        """
        reading = _Reading(file, self._service.config.limits.max_stream_seconds)
        service = self._service
        hotwords = hotwords or service.config.hotwords
        is_written = service.config.stream.style == "written"
        context = Context()
        before_deadline = service.stop.before_deadline
        free = asyncio.Semaphore(len(service.workers))
        under_way: deque[asyncio.Task[list[Segment]]] = deque()
        ahead, damage = 1, None  # small at first, so that the first segment comes soon
        try:
            while True:
                try:
                    spans = await self._read(reading, ahead)
                except SpellstreamError as error:  # raised after the segments before it
                    spans, damage = [], error
                if spans:
                    ahead = min(4 * ahead, _AHEAD)
                    under_way.append(asyncio.create_task(self._decode(spans, hotwords, free)))
                if spans and len(under_way) == 1:  # read on while these are decoded
                    continue
                if not under_way:
                    break
                for segment in await before_deadline(under_way[0]):
                    if is_written:
                        writing = service.run(_written, segment, context, hotwords)
                        segment, context = await before_deadline(writing)
                    yield Part(segment, reading.seconds)
                under_way.popleft()
            if damage is not None:
                raise damage
            yield Part(None, reading.seconds)
        finally:
            for task in under_way:
                task.cancel()
            reading.stop()
            self._reader.submit(reading.close)  # after the current read

    async def _decode(self, spans: list[Span], hotwords: Hotwords | None, free: asyncio.Semaphore) -> list[Segment]:
        """The segments of spans, in order; a batch begins when `free` lets it."""
        service = self._service
        search = replace(service.engine.final, nbest=1)

        async def one(batch: list[Span]) -> list[Segment]:
            async with free:
                waveforms = [span.waveform.numpy() for span in batch]
                segments = await service.run_steps(_decoded, waveforms, search, hotwords)
            rows = zip(batch, segments, strict=True)
            return [segment.shifted(span.start_seconds) for span, segment in rows if segment.text]

        seconds = [len(span.waveform) / SAMPLE_RATE for span in spans]
        packed = pack(seconds, _BATCH, len(service.workers), service.recogniser.device.type == "cpu")
        batches = [[spans[i] for i in batch] for batch in packed]
        tasks = [asyncio.create_task(one(batch)) for batch in batches]
        try:
            decoded = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # the remaining batches after a failure
                task.cancel()
        return sorted(itertools.chain(*decoded), key=lambda segment: segment.start_seconds)

    async def _read(self, reading: _Reading, count: int) -> list[Span]:
        """The next spans of a file, at most `count`; fewer if it has little speech, none at its end.

        Each step is a separate call, so that the reader's thread alternates between files. Spans before an error are
        returned first.
        """
        loop, spans = asyncio.get_running_loop(), list[Span]()
        for tried in itertools.count(1):
            span = await self._service.stop.before_deadline(loop.run_in_executor(self._reader, reading.step, not spans))
            spans += [span] if span is not None and span is not _END else []
            if span is _END or len(spans) == count or (spans and tried >= _STEPS * count):
                break
        return spans


def _decoded(
    recogniser: Recogniser, waveforms: list[NDArray[np.float32]], search: SearchConfig, hotwords: Hotwords | None
) -> Steps[list[Segment]]:
    return recogniser.decode_steps([torch.from_numpy(waveform) for waveform in waveforms], search, True, hotwords)


def _written(
    recogniser: Recogniser, segment: Segment, context: Context, hotwords: Hotwords | None
) -> tuple[Segment, Context]:
    (written,) = recogniser.writer.write([segment], [context], [hotwords])
    return written


class _Reading:
    """A file that the reader's thread reads step by step."""

    def __init__(self, file: IO[bytes], max_seconds: float) -> None:
        self._file = cast(BinaryIO, os.fdopen(os.dup(file.fileno()), "rb"))
        self._max_seconds = max_seconds
        self._stopped = threading.Event()
        self._steps = self._read()
        self._error: SpellstreamError | None = None
        self.seconds = 0.0

    def step(self, may_fail: bool) -> Span | None:
        """Read up to the next span of speech, or some seconds without one (None); `_END` at the end of the file.

        An error also ends the file, until `may_fail`: then it is raised.
        """
        try:
            if self._error is None:
                return next(self._steps, _END)
        except SpellstreamError as error:
            self._error = error
        if may_fail and self._error is not None:
            raise self._error
        return _END

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
                yield from steps(self._counted(read))
        except AudioError as error:
            raise type(error)(_NAME, error.reason) from error
        except SpellstreamError:
            raise
        except Exception as error:  # from any library: a fault of this file, not of the server
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
