"""Which utterances make a batch: lhotse's dynamic bucketing, as numbered batches that a run can enter anywhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from asr.errors import DataError
from asr.training.config import DataConfig

__all__ = ["BucketSampler"]

_MAX_BUCKETS = 30  # with these, 3 to 4 % of a batch is padding
_BATCHES_A_BUCKET = 4  # fewer would leave too many batches half empty at the end of a pass


class BucketSampler(Sampler[list[int]]):
    """Endless batches of utterances of like length, up to `batch_seconds` with padding, in a random order.

    The batches depend on the seed and their number alone, so that a run that was killed goes on where it stopped. The
    first `sorted_passes` over the data go from short to long, which is easiest to begin with. Of several ranks each
    gets batches of its own, as many as the others and of about the same length.

    Args:
        seconds: of each utterance.
        config: which batches to make.
        seed: of the order.
        weights: how often each utterance comes in a pass; a fraction is its chance to come once more. 1 if not given.
        rank: whose batches these are.
        world_size: ranks in all.

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
        """The number of the first batch of each pass begun so far: kept in checkpoints, to enter a late one at once."""

    def start_at(self, batch: int, starts: Sequence[int] = (0,)) -> None:
        """Leave out the first `batch` batches; `starts` is what the sampler had come to know about them."""
        self._first, self.starts = batch, list(starts)

    def one_pass(self, number: int) -> Iterator[list[int]]:
        """The batches of one pass over the data."""
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
        # The sampler asks cuts for no more than this.
        cuts = [MonoCut(str(i), 0, float(self._seconds[i]), 0) for i in order]
        total, longest = float(self._seconds[order].sum()), float(self._seconds[order].max())
        batches = total / self._config.batch_seconds / self._world_size
        buckets = min(_MAX_BUCKETS, len(cuts), max(2, round(batches / _BATCHES_A_BUCKET)))
        bounds = estimate_duration_buckets(cuts, buckets) if buckets > 1 else []
        # Batches are sized for the longest utterance that a bucket may hold, and so never exceed batch_seconds.
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
            # Where utterances run out, lhotse deals the last out again: 7_dup0 is another 7.
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
