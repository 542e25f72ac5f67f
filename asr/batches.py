"""Segmentation of sources at their pauses, and decoding in batches of spans of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.audio.segment import Span, split
from asr.errors import SpellstreamError
from asr.jobs import Decoding, Job, Outcome, unexpected
from asr.packing import pack
from asr.steps import Steps
from asr.transcript import Segment
from asr.workers import Workers

__all__ = ["Batches"]

_AHEAD = 8  # batches read ahead and sorted by length; more of them mean less padding


class Batches:
    """Decodes batches, several in parallel if PyTorch has several threads.

    Args:
        steps: decodes one batch, see `Recogniser.decode_steps`.
        decoding: settings of segmentation and batch size.
        device: of the model.
    """

    def __init__(
        self, steps: Callable[[Sequence[Tensor]], Steps[list[Segment]]], decoding: Decoding, device: torch.device
    ) -> None:
        self._steps, self._decoding, self._device = steps, decoding, device

    def run(
        self, readers: Iterable[tuple[Any, Generator[Tensor, None, None]]], keep_damaged: bool = False
    ) -> Iterator[Outcome]:
        """Read the sources one after the other and decode whenever enough spans are waiting."""
        waiting: list[tuple[Job, Span]] = []
        under_way: Iterator[Outcome] = iter(())  # decoded by workers while the next spans are read
        with Workers(self._device) as workers:
            for source, read in readers:
                job = Job(source, keep_damaged)
                try:
                    for span in split(job.read(read), self._decoding.segment, workers.ahead):
                        job.pending += 1
                        waiting.append((job, span))
                        if len(waiting) >= self._decoding.batch_size * _AHEAD:
                            before, under_way = under_way, self._begin(waiting, workers)
                            waiting = []
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
            last = self._begin(waiting, workers)
            yield from under_way
            yield from last

    def decode(self, waveforms: Sequence[Tensor]) -> list[Segment | Exception]:
        """Decode one batch, split among the workers."""
        with Workers(self._device) as workers:
            batches = self._packed(waveforms, workers)
            found = workers.map(self._each, [[waveforms[i] for i in batch] for batch in batches])
            rows = zip(itertools.chain(*batches), itertools.chain.from_iterable(found), strict=True)
            return [segment for _, segment in sorted(rows, key=lambda row: row[0])]

    def _packed(self, waveforms: Sequence[Tensor], workers: Workers) -> list[list[int]]:
        """The indices of each batch's waveforms."""
        most, seconds = self._decoding.batch_size, [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        return pack(seconds, most, workers.count, self._device.type == "cpu")

    def _begin(self, waiting: Sequence[tuple[Job, Span]], workers: Workers) -> Iterator[Outcome]:
        """Begin to decode all waiting spans; yield the sources that this finishes."""
        packed = self._packed([span.waveform for _, span in waiting], workers)
        batches = [[waiting[i] for i in batch] for batch in packed]
        found = workers.map(self._each, [[span.waveform for _, span in batch] for batch in batches])
        return self._finished(batches, found)

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

    def _each(self, waveforms: Sequence[Tensor]) -> Steps[list[Segment | Exception]]:
        """Decode a batch; if it fails (out of memory), decode its items singly, each failure as an exception."""
        try:
            return list((yield from self._steps(waveforms)))
        except SpellstreamError:  # settings that do not fit the model: wrong for every source
            raise
        except Exception as error:
            if len(waveforms) == 1:
                return [error]
        each: list[Segment | Exception] = []
        for waveform in waveforms:
            each += yield from self._each([waveform])
        return each
