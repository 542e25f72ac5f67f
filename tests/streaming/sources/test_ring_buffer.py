"""The ring buffer: the writer never waits, and each sample is read once or counted as dropped."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming.sources.ring_buffer
from asr.errors import ConfigError
from streaming.sources.ring_buffer import RingBuffer, Signal

RATE = 16_000


def ramp(start: int, stop: int, channels: int = 1) -> np.ndarray:
    """Samples that equal their position, exact in float32."""
    return np.repeat(np.arange(start, stop, dtype=np.float32)[:, None], channels, axis=1)


def at_copy(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> None:
    """Call `do` each time the reader has copied samples and not yet checked them."""

    def concatenate(parts: Any) -> np.ndarray:
        copied = np.concatenate(parts)
        do()
        return copied

    names = {name: getattr(np, name) for name in ("zeros", "float32")}
    monkeypatch.setattr(streaming.sources.ring_buffer, "np", SimpleNamespace(concatenate=concatenate, **names))


def test_what_is_written_is_read_once() -> None:
    buffer = RingBuffer(100, RATE)
    buffer.write(ramp(0, 3)[:, 0])  # one channel may come as (samples,)
    buffer.write(ramp(3, 5))
    assert np.array_equal(buffer.read(), ramp(0, 5))
    assert buffer.read(0).shape == (0, 1)
    buffer.write(ramp(5, 9))
    assert np.array_equal(buffer.read(max_samples=3), ramp(5, 8))
    assert np.array_equal(buffer.read(max_samples=3), ramp(8, 9))
    assert buffer.dropped_samples == 0


def test_channels_stay_together() -> None:
    buffer = RingBuffer(4, RATE, channels=3)
    block = np.arange(21, dtype=np.float32).reshape(7, 3)
    buffer.write(block)
    assert np.array_equal(buffer.read(), block[3:])
    assert buffer.dropped_samples == 3


def test_the_writer_keeps_nothing_of_the_block() -> None:
    """The buffer copies each block: the audio system reuses its memory after the callback."""
    buffer, block = RingBuffer(8, RATE), ramp(0, 4)
    buffer.write(block)
    block[:] = -1
    chunk = buffer.read()
    buffer.write(ramp(4, 12))
    assert np.array_equal(chunk, ramp(0, 4))


def test_the_oldest_gives_way_and_is_counted() -> None:
    buffer = RingBuffer(RATE, RATE)
    buffer.write(ramp(0, RATE))
    assert buffer.dropped_samples == 0
    buffer.write(ramp(RATE, RATE + 4000))
    assert buffer.dropped_samples == 4000  # counted before the next read
    assert buffer.dropped_seconds == 0.25
    assert buffer.read()[0] == 4000
    buffer.write(ramp(0, 3 * RATE))  # more than fits
    assert buffer.dropped_samples == 2 * RATE + 4000
    assert np.array_equal(buffer.read(), ramp(2 * RATE, 3 * RATE))
    assert buffer.dropped_samples == 2 * RATE + 4000


operations = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 30)),
    st.tuples(st.just("read"), st.none() | st.integers(1, 30)),
)


@settings(max_examples=300)
@given(capacity=st.integers(1, 12), channels=st.integers(1, 3), script=st.lists(operations, max_size=40))
def test_it_behaves_like_a_bounded_queue(capacity: int, channels: int, script: list[tuple[str, int | None]]) -> None:
    buffer = RingBuffer(capacity, RATE, channels)
    queue: deque[int] = deque(maxlen=capacity)
    written = read = 0
    for name, size in script:
        if name == "write":
            count = size or 0
            buffer.write(ramp(written, written + count, channels))
            queue.extend(range(written, written + count))
            written += count
        else:
            chunk = buffer.read(0, size)
            expected = [queue.popleft() for _ in range(min(len(queue), size or capacity))]
            assert np.array_equal(chunk, np.repeat(np.float32(expected)[:, None], channels, axis=1))
            read += len(expected)
        assert buffer.dropped_samples == written - read - len(queue)


def test_what_is_overwritten_during_a_read_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = RingBuffer(10, RATE)
    buffer.write(ramp(0, 10))
    extra = iter([ramp(10, 14), ramp(14, 30)])
    at_copy(monkeypatch, lambda: buffer.write(next(extra, ramp(0, 0))))
    assert np.array_equal(buffer.read(), ramp(4, 10))
    assert np.array_equal(buffer.read(max_samples=2), ramp(20, 22))  # all of the first copy was overwritten
    assert np.array_equal(buffer.read(), ramp(22, 30))
    assert buffer.dropped_samples == 4 + 10


def test_a_read_waits_for_samples() -> None:
    buffer = RingBuffer(10, RATE)
    timer = threading.Timer(0.1, buffer.write, [ramp(0, 2)])
    timer.start()
    assert np.array_equal(buffer.read(5), ramp(0, 2))
    timer.join()
    started = time.monotonic()
    assert buffer.read(0.1).size == 0
    assert 0.05 < time.monotonic() - started < 2
    assert not buffer.finished


def test_closing_ends_a_wait_and_leaves_the_rest() -> None:
    buffer = RingBuffer(10, RATE)
    timer = threading.Timer(0.1, buffer.close)
    timer.start()
    assert buffer.read().size == 0
    assert buffer.finished
    timer.join()

    buffer = RingBuffer(10, RATE)
    buffer.write(ramp(0, 5))
    buffer.close()
    buffer.close()
    buffer.write(ramp(5, 9))  # too late
    assert np.array_equal(buffer.read(max_samples=4), ramp(0, 4))
    assert not buffer.finished
    assert np.array_equal(buffer.read(), ramp(4, 5))
    assert buffer.finished
    assert buffer.read().size == 0


def test_settings_are_checked() -> None:
    for values in ((0, RATE, 1), (10, 0, 1), (10, RATE, 0)):
        with pytest.raises(ConfigError, match="must be positive"):
            RingBuffer(*values)


def test_a_signal_is_kept_until_someone_waits() -> None:
    signal = Signal()
    signal.send()
    signal.send()
    assert signal.wait()
    assert not signal.wait(0)


def test_two_threads_lose_nothing_uncounted() -> None:
    buffer, total = RingBuffer(1000, RATE), 400_000
    generator = random.Random(0)

    def produce() -> None:
        written = 0
        while written < total:
            count = min(generator.randint(1, 300), total - written)
            buffer.write(ramp(written, written + count))
            written += count
            if generator.random() < 0.05:
                time.sleep(0.0005)
        buffer.close()

    producer = threading.Thread(target=produce)
    producer.start()
    read, previous = 0, -1.0
    while not buffer.finished:
        chunk = buffer.read(1, generator.choice([None, 7, 500]))[:, 0]
        if len(chunk):
            assert chunk[0] > previous
            assert np.array_equal(chunk, np.arange(chunk[0], chunk[0] + len(chunk)))
            previous = chunk[-1]
            read += len(chunk)
    producer.join()
    assert 0 < read <= total
    assert read + buffer.dropped_samples == total


def test_a_stalled_reader_never_blocks_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 6: with the reader stuck at the worst point, a callback every 10 ms is never late."""
    block_seconds, blocks = 0.01, 100
    block = ramp(0, round(RATE * block_seconds))
    buffer = RingBuffer(RATE // 4, RATE)
    stuck, free = threading.Event(), threading.Event()
    at_copy(monkeypatch, lambda: (stuck.set(), free.wait()))
    buffer.write(block)
    read: list[np.ndarray] = []
    reader = threading.Thread(target=lambda: read.append(buffer.read()))
    reader.start()
    assert stuck.wait(5)

    taken = []
    started = time.perf_counter()
    for number in range(blocks):
        time.sleep(max(0.0, started + number * block_seconds - time.perf_counter()))
        called = time.perf_counter()
        buffer.write(block)
        taken.append(time.perf_counter() - called)
    assert reader.is_alive()
    assert sorted(taken)[-2] < block_seconds  # the scheduler may delay one
    assert np.median(taken) < 0.001

    free.set()
    reader.join()
    assert len(read[0]) == RATE // 4
    assert len(read[0]) + buffer.dropped_samples == (blocks + 1) * len(block)
