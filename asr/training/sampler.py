"""Batching of utterances: lhotse's dynamic bucketing, in numbered batches, so that a run can resume at any of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from asr.errors import DataError
from asr.training.config import DataConfig

__all__ = ["BucketSampler"]

_MAX_BUCKETS = 30  # gives 3 to 4 % of padding
_BATCHES_A_BUCKET = 4  # with fewer, too many batches are half empty at the end of a pass


class BucketSampler(Sampler[list[int]]):
    """Endless batches of utterances of similar length, up to `batch_seconds` with padding, in a random order.

    A batch depends only on the seed and its number, so that a killed run resumes where it stopped. The first
    `sorted_passes` go from short to long utterances, which is the easiest start. All ranks get the same number of
    batches, of about the same length.

    Args:
        seconds: durations of the utterances.
        config: batch size and sorted passes.
        seed: for the order.
        weights: repetitions of each utterance per pass; the fractional part is a probability. Default: 1.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: if there is no utterance.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        config: DataConfig,
        seed: int,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not seconds:
            raise DataError("no utterance is left to train on: see data.min_seconds and data.max_seconds")
        self._seconds = np.asarray(seconds)
        self._weights = np.ones(len(seconds)) if weights is None else np.asarray(weights)
        self._config, self._seed, self._first = config, seed, 0
        self._rank, self._world_size = rank, world_size
        self.starts = [0]
        """Number of the first batch of each pass begun so far; checkpoints keep it, to resume a late pass directly."""

    def start_at(self, batch: int, starts: Sequence[int] = (0,)) -> None:
        """Begin at a batch number; `starts` is the attribute of the sampler that produced the earlier batches."""
        self._first, self.starts = batch, list(starts)

    def one_pass(self, number: int) -> Iterator[list[int]]:
        """Batches of one pass over the data."""
        rng = np.random.default_rng((self._seed, number))
        copies = np.floor(self._weights + rng.random(len(self._weights))).astype(int)
        order = rng.permutation(np.repeat(np.arange(len(copies)), copies))
        batches = self._in_buckets(order, seed=int(rng.integers(2**31)))
        if number < self._config.sorted_passes:
            return iter(sorted(batches, key=lambda batch: self._seconds[batch].max()))
        return batches

    def _in_buckets(self, order: np.ndarray, seed: int) -> Iterator[list[int]]:
        from lhotse import MonoCut
        from lhotse.dataset.sampling.dynamic_bucketing import (
            DynamicBucketingSampler,
            FixedBucketBatchSizeConstraint,
            estimate_duration_buckets,
        )

        if not len(order):
            return
        # The sampler reads nothing else of a cut.
        cuts = [MonoCut(str(i), 0, float(self._seconds[i]), 0) for i in order]
        total, longest = float(self._seconds[order].sum()), float(self._seconds[order].max())
        batches = total / self._config.batch_seconds / self._world_size
        buckets = min(_MAX_BUCKETS, len(cuts), max(2, round(batches / _BATCHES_A_BUCKET)))
        bounds = estimate_duration_buckets(cuts, buckets) if buckets > 1 else []
        # Batch sizes assume the longest utterance of a bucket, so batches never exceed batch_seconds.
        sizes = [max(1, int(self._config.batch_seconds / bound)) for bound in (*bounds, longest)]
        sampler = DynamicBucketingSampler(
            cuts,
            constraint=FixedBucketBatchSizeConstraint([*bounds, longest], sizes),
            duration_bins=bounds,
            shuffle=True,
            seed=seed,
            rank=self._rank,
            world_size=self._world_size,
        )
        for batch in sampler:
            # lhotse repeats utterances to fill the last batches of all ranks: 7_dup0 is a copy of 7.
            yield [int(cut.id.partition("_")[0]) for cut in batch]

    def __iter__(self) -> Iterator[list[int]]:
        number = bisect_right(self.starts, self._first) - 1
        position = self.starts[number]
        while True:
            skipped = max(0, self._first - position)
            for batch in self.one_pass(number):
                position += 1
                if skipped:
                    skipped -= 1
                else:
                    yield batch
            number += 1
            if len(self.starts) == number:
                self.starts.append(position)
