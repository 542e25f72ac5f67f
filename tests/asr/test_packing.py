"""Batches: each waveform is in exactly one, padding is small, and threads finish together."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from asr.packing import pack


def lengths(count: int) -> list[float]:
    return [random.Random(i).uniform(1, 20) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_waveform_is_in_one_batch_of_similar_lengths(count: int, threads: int) -> None:
    seconds = lengths(count)
    batches = pack(seconds, 4, threads)
    assert sorted(chain(*batches)) == list(range(count))
    assert all(1 <= len(batch) <= 4 for batch in batches)
    for batch in batches:
        inside = [seconds[i] for i in batch]
        assert inside == sorted(inside, reverse=True)
        others = [second for i, second in enumerate(seconds) if i not in batch]
        assert not any(min(inside) < second < max(inside) for second in others)


def test_one_thread_shares_steps_unless_padding_costs_more() -> None:
    assert pack([3.0] * 6, 8) == [[0, 1, 2, 3, 4, 5]]
    assert pack([2.0, 20.0, 2.0, 19.0, 2.0], 8) == [[1, 3], [0, 2, 4]]


def test_threads_end_together() -> None:
    """Batches of equal count once ran shortest first, so the longest ran alone at the end."""
    seconds = [2.0] * 12 + [20.0] * 4
    both = pack(seconds, 16, 2)
    assert [sorted(seconds[i] for i in batch) for batch in both] == [[20.0, 20.0], [20.0, 20.0], [2.0] * 12]


def test_costly_batches_come_first() -> None:
    seconds = lengths(100)
    batches = pack(seconds, 16, 2)
    totals = [sum(seconds[i] for i in batch) for batch in batches]
    assert totals[-1] == min(totals)
    assert len(batches) > 100 / 16


def test_a_gpu_gets_batches_as_large_as_possible() -> None:
    assert pack([2.0, 20.0, 2.0, 19.0, 2.0], 2, threads=3, on_cpu=False) == [[1, 3], [0, 2], [4]]
