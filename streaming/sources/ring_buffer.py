"""A bounded buffer between the audio callback, which must never wait, and the recogniser, which may be late.

One thread writes and one reads, without a lock. The writer announces the end of the block that it is about to write,
copies, and then publishes that position; it ignores the reader. The reader copies first and then checks the announced
position: samples that may have been overwritten during the copy are discarded and counted as dropped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.config import require

__all__ = ["RingBuffer", "Signal"]


class Signal:
    """Wakes the one thread that waits for it.

    Unlike `threading.Event`, sending is guaranteed never to block, so audio callbacks and signal handlers may send. A
    signal sent while no thread waits is kept for the next wait; several count as one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def send(self) -> None:
        with contextlib.suppress(RuntimeError):  # already sent, and not yet received
            self._lock.release()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Return True as soon as the signal is sent, or False after the timeout; None waits forever."""
        return self._lock.acquire(timeout=-1 if timeout_seconds is None else max(0.0, timeout_seconds))


class _Reader(NamedTuple):
    """The reader's position and losses; replaced as one value, so that other threads see consistent numbers."""

    position: int = 0  # samples since the start, read or dropped
    dropped: int = 0  # how many of them were dropped


class RingBuffer:
    """The latest `capacity` samples of a stream, for one writing and one reading thread.

    A full buffer drops its oldest samples. All counts are samples of one channel.

    Args:
        capacity: in samples.
        sample_rate: of the stream, in Hz.
        channels: values per sample.
    """

    def __init__(self, capacity: int, sample_rate: int, channels: int = 1) -> None:
        require(capacity > 0, "capacity", capacity, "positive")
        require(sample_rate > 0, "sample_rate", sample_rate, "positive")
        require(channels > 0, "channels", channels, "positive")
        self.sample_rate = sample_rate
        self.channels = channels
        self._ring = np.zeros((capacity, channels), dtype=np.float32)
        self._announced = 0  # samples since the start that have been or are being written
        self._written = 0  # samples since the start that are complete
        self._reader = _Reader()
        self._closed = False
        self._news = Signal()

    def write(self, block: NDArray[np.float32]) -> None:
        """Copy the next samples in, `(samples, channels)` or for one channel `(samples,)`; never waits.

        After `close` it does nothing.
        """
        if self._closed:
            return
        block = block.reshape(-1, self.channels)
        capacity = len(self._ring)
        end = self._announced + len(block)
        block = block[-capacity:]
        at = (end - len(block)) % capacity
        head = block[: capacity - at]
        self._announced = end
        self._ring[at : at + len(head)] = head
        self._ring[: len(block) - len(head)] = block[len(head) :]
        self._written = end
        self._news.send()

    def read(self, timeout_seconds: float | None = None, max_samples: int | None = None) -> NDArray[np.float32]:
        """The unread samples `(samples, channels)`, at most `max_samples`.

        Waits for the first sample; returns none only after the timeout or at the end (see `finished`).
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            closed = self._closed  # read before the samples, since none arrive after closing
            chunk = self._copy(max_samples)
            if len(chunk) or closed:
                return chunk
            remaining = None if deadline is None else deadline - time.monotonic()
            if not self._news.wait(remaining) and not self._closed:
                return self._copy(max_samples)

    def close(self) -> None:
        """End the stream, from any thread. Its samples can still be read; no more can be written."""
        self._closed = True
        self._news.send()

    @property
    def finished(self) -> bool:
        """Whether it is closed and all samples have been read."""
        return self._closed and self._reader.position >= self._written

    @property
    def dropped_samples(self) -> int:
        """Samples overwritten unread so far, including those that the reader has not reached yet."""
        reader = self._reader
        return reader.dropped + max(0, self._announced - len(self._ring) - reader.position)

    @property
    def dropped_seconds(self) -> float:
        """`dropped_samples` in seconds."""
        return self.dropped_samples / self.sample_rate

    def _copy(self, max_samples: int | None) -> NDArray[np.float32]:
        reader, capacity = self._reader, len(self._ring)
        written = self._written
        start = max(reader.position, written - capacity)
        end = written if max_samples is None else min(written, start + max_samples)
        at, count = start % capacity, end - start
        chunk = np.concatenate((self._ring[at : at + count], self._ring[: max(0, at + count - capacity)]))
        overwritten = min(max(start, self._announced - capacity), end)  # samples before this one may be
        self._reader = _Reader(end, reader.dropped + overwritten - reader.position)
        return chunk[overwritten - start :]
