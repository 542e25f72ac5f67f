"""Division of waveforms into batches that are decoded in the least wall time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["pack"]

# Seconds of one core, as a polynomial in the lengths of a batch's rows in seconds: a step of the search costs the same
# for any number of rows, each row costs by its own length, and its attention by the padded length besides. Fitted on
# batches of 1 to 16 rows of 1 to 17 s, with a median error of 6 %; only the ratios matter.
_STEPS, _ROWS, _ATTENTION = 0.028, 0.0081, 0.00105
_PARTS = (0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)  # of one thread's work: divisors that give the batch cost limits to try


def pack(seconds: Sequence[float], most: int, threads: int = 1, on_cpu: bool = True) -> list[list[int]]:
    """Divide waveforms into batches of similar lengths that are decoded in the least wall time.

    On a GPU the largest batches are the fastest. On a CPU, with one thread, these are the batches with the least work:
    larger ones share the steps of the search, smaller ones have less padding. With several threads, batches are also
    small enough that the threads end at about the same time.

    Args:
        seconds: the length of each waveform.
        most: the largest number of waveforms in a batch.
        threads: the number of batches decoded at a time, each begun as soon as a thread is free.
        on_cpu: whether a CPU decodes them.

    Returns:
        The indices of each batch's waveforms, longest first. Costly batches come first, so that the last one is short.
    """
    order = sorted(range(len(seconds)), key=lambda i: -seconds[i])
    if not on_cpu:
        return [order[start : start + most] for start in range(0, len(order), most)]
    lengths = [seconds[i] for i in order]
    divisions = [_cheapest(lengths, most)]
    if threads > 1:
        share = sum(cost for cost, _, _ in divisions[0]) / threads
        divisions += [_cheapest(lengths, most, share / parts) for parts in _PARTS]
    best = min(divisions, key=lambda division: _end([cost for cost, _, _ in division], threads))
    return [order[start:end] for _, start, end in best]


def _cheapest(lengths: Sequence[float], most: int, limit: float = math.inf) -> list[tuple[float, int, int]]:
    """The division of lengths, longest first, with the least work in total.

    Returns:
        Cost, start and end of each batch, costliest first. Only a batch of a single waveform costs more than `limit`.
    """
    totals = list(accumulate(lengths, initial=0.0))
    least = [(0.0, 0.0, 0)]  # for each end: cost of all batches up to there, cost and start of the last one
    for end in range(1, len(lengths) + 1):
        found = (math.inf, 0.0, 0)
        for start in range(end - 1, max(0, end - most) - 1, -1):
            together = totals[end] - totals[start]
            cost = lengths[start] * (_STEPS + _ATTENTION * together) + _ROWS * together
            if cost > limit and end - start > 1:
                break
            found = min(found, (least[start][0] + cost, cost, start))
        least.append(found)

    batches, end = [], len(lengths)
    while end > 0:
        _, cost, start = least[end]
        batches.append((cost, start, end))
        end = start
    return sorted(batches, reverse=True)


def _end(costs: Sequence[float], threads: int) -> float:
    """The time at which the last batch ends."""
    ends = [0.0] * threads
    for cost in costs:
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)
