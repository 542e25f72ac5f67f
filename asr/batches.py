"""Segmentation of sources at their pauses, and decoding in batches of spans of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.audio.segment import Span, split
from asr.decoding import decode_each
from asr.errors import SpellstreamError
from asr.jobs import Decoding, Job, Outcome, unexpected
from asr.packing import pack
from asr.processes import Processes
from asr.steps import Steps
from asr.transcript import Segment
from asr.workers import Workers

__all__ = ["Batches"]

_AHEAD = 8  # batches read ahead and sorted by length; more of them mean less padding


class Batches:
    """Decodes batches, several in parallel if PyTorch has several threads.

    Args:
        steps: decodes one batch, see `Recogniser.steps`.
        decoding: settings of segmentation and batch size.
        device: of the model.
        processes: decode in place of threads, if they are running or the job is long.
    """

    def __init__(
        self,
        steps: Callable[[Sequence[Tensor]], Steps[list[Segment]]],
        decoding: Decoding,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self._each = partial(decode_each, steps)
        self._decoding, self._device = decoding, device
        self._processes = processes

    def run(
        self, readers: Iterable[tuple[Any, Generator[Tensor, None, None]]], keep_damaged: bool = False
    ) -> Iterator[Outcome]:
        """Read the sources one after the other and decode whenever enough spans are waiting.

        Several workers begin with fewer, so that none waits long.
        """
        waiting: list[tuple[Job, Span]] = []
        under_way: Iterator[Outcome] = iter(())  # decoded by workers while the next spans are read
        full, is_long = self._decoding.batch_size * _AHEAD, False
        with Workers(self._device) as workers:
            most = full if workers.count == 1 else min(full, self._decoding.batch_size * workers.count)
            for source, read in readers:
                job = Job(source, keep_damaged)
                try:
                    for span in split(job.read(read), self._decoding.segment, workers.ahead):
                        job.pending += 1
                        waiting.append((job, span))
                        if len(waiting) >= most:
                            before, under_way = under_way, self._begin(waiting, workers, is_long)
                            is_long = len(waiting) >= full
                            waiting, most = [], full
                            yield from before  # after the next ones are begun, so that no worker waits
                except SpellstreamError as error:
                    job.error = error
                except Exception as error:
                    job.error = unexpected(source, error)
                if job.error is not None:
                    yield from under_way
                job.complete = True

                if job.error is not None or job.pending == 0:
                    waiting = [(j, s) for j, s in waiting if j is not job]
                    yield job.outcome(self._decoding)
            last = self._begin(waiting, workers, is_long) if waiting else iter(())
            yield from under_way
            yield from last

    def decode(self, waveforms: Sequence[Tensor]) -> list[Segment | Exception]:
        """Decode one batch, split among the workers."""
        with Workers(self._device) as workers:
            batches = self._packed(waveforms, workers.count)
            found = workers.map(self._each, [[waveforms[i] for i in batch] for batch in batches])
            rows = zip(itertools.chain(*batches), itertools.chain.from_iterable(found), strict=True)
            return [segment for _, segment in sorted(rows, key=lambda row: row[0])]

    def _packed(self, waveforms: Sequence[Tensor], count: int) -> list[list[int]]:
        """The indices of each batch's waveforms, for as many threads or processes."""
        most, seconds = self._decoding.batch_size, [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        return pack(seconds, most, count, self._device.type == "cpu")

    def _begin(self, waiting: Sequence[tuple[Job, Span]], workers: Workers, is_long: bool) -> Iterator[Outcome]:
        """Begin to decode all waiting spans; yield the sources that this finishes."""
        processes = self._processes if self._processes is not None and self._processes.are_ready(is_long) else None
        count = workers.count if processes is None else processes.count
        packed = self._packed([span.waveform for _, span in waiting], count)
        batches = [[waiting[i] for i in batch] for batch in packed]
        waveforms = [[span.waveform for _, span in batch] for batch in batches]
        if processes is None:
            return self._finished(batches, workers.map(self._each, waveforms))
        return self._finished(batches, processes.decode(waveforms, self._decoding))

    def _finished(
        self, batches: Sequence[Sequence[tuple[Job, Span]]], found: Iterator[list[Segment | Exception]]
    ) -> Iterator[Outcome]:
        for batch, decoded in zip(batches, found, strict=True):
            for (job, span), segment in zip(batch, decoded, strict=True):
                job.pending -= 1
                if isinstance(segment, Exception):
                    job.error = job.error or unexpected(job.source, segment)
                elif segment.text:
                    job.segments.append(segment.shifted(span.start_seconds))
                if job.complete and job.pending == 0:
                    yield job.outcome(self._decoding)
