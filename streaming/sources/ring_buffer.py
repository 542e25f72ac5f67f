"""A bounded buffer between the audio callback, which may never wait, and the recogniser, which may be late.

One thread writes and one reads, without a lock between them. The writer announces how far it is about to write, copies,
and says that it is done; it never looks at where the reader is. The reader copies first and then checks how far the
writer has been announced meanwhile: whatever that may have overwritten is thrown away and counted as dropped.
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

    Sending never blocks, which `threading.Event` does not promise: audio callbacks and signal handlers may do it. One
    that is sent while nobody waits is kept for the next to come; several count as one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def send(self) -> None:
        with contextlib.suppress(RuntimeError):  # sent before and not yet waited for
            self._lock.release()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Return True as soon as the signal is sent, or False after the timeout; None waits for ever."""
        return self._lock.acquire(timeout=-1 if timeout_seconds is None else max(0.0, timeout_seconds))


class _Reader(NamedTuple):
    """Where the reader stands; replaced as one value, so that other threads see both numbers or neither."""

    position: int = 0  # samples since the start, read or dropped
    dropped: int = 0  # how many of them were dropped


class RingBuffer:
    """The latest `capacity` samples of a stream, for one writing and one reading thread.

    When it is full the oldest samples give way. All counts are samples of one channel.

    Args:
        capacity: how many samples it holds.
        sample_rate: of the stream, in Hz.
        channels: how many values make up one sample.
    """

    def __init__(self, capacity: int, sample_rate: int, channels: int = 1) -> None:
        require(capacity > 0, "capacity", capacity, "positive")
        require(sample_rate > 0, "sample_rate", sample_rate, "positive")
        require(channels > 0, "channels", channels, "positive")
        self.sample_rate = sample_rate
        self.channels = channels
        self._ring = np.zeros((capacity, channels), dtype=np.float32)
        self._announced = 0  # samples since the start that have been or are being written
        self._written = 0  # samples since the start that are all there
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
        """Return what is there and was not read before, `(samples, channels)`, at most `max_samples` of it.

        Waits for the first sample; returns none at all only after the timeout or at the end (see `finished`).
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            closed = self._closed  # before looking for samples: after closing no more will come
            chunk = self._copy(max_samples)
            if len(chunk) or closed:
                return chunk
            remaining = None if deadline is None else deadline - time.monotonic()
            if not self._news.wait(remaining) and not self._closed:
                return self._copy(max_samples)

    def close(self) -> None:
        """End the stream, from any thread: what is there can still be read, more cannot be written."""
        self._closed = True
        self._news.send()

    @property
    def finished(self) -> bool:
        """Closed, and everything was read."""
        return self._closed and self._reader.position >= self._written

    @property
    def dropped_samples(self) -> int:
        """How many samples gave way unread so far, those included that the reader has yet to stumble on."""
        reader = self._reader
        return reader.dropped + max(0, self._announced - len(self._ring) - reader.position)

    @property
    def dropped_seconds(self) -> float:
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
