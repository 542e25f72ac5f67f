"""Read speed of training data: a prepared corpus, FLAC, and the original files.

    python recipes/benchmark/reading.py PREPARED [--batches 40] [--batch-seconds 60]

Each is decoded into the same batches on one core; the measure is the process's own CPU time. A first round, not
counted, loads the files into the page cache.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from asr.audio import load
from asr.training.config import DataConfig
from asr.training.data import Corpus, Item, collate
from asr.training.sampler import BucketSampler


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder made by spellstream prepare")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(args.prepared)
    corpus = Corpus([entry for entry in corpus.entries if entry.seconds <= args.batch_seconds])
    longest = max(entry.seconds for entry in corpus.entries)
    config = DataConfig(batch_seconds=args.batch_seconds, max_seconds=longest, sorted_passes=0)
    sampler = BucketSampler([entry.seconds for entry in corpus.entries], config, seed=1)
    started = time.process_time()
    one_pass = list(sampler.one_pass(0))
    sampling_ms = 1000 * (time.process_time() - started) / len(one_pass)
    padded = sum(len(batch) * max(corpus.entries[i].seconds for i in batch) for batch in one_pass)
    filled = sum(entry.seconds for entry in corpus.entries) / padded
    print(f"{len(one_pass)} batches: {sampling_ms:.2f} ms each to choose, {1 - filled:.1%} padding")

    batches = list(itertools.islice(sampler, args.batches))
    with gzip.open(args.prepared / "cuts.jsonl.gz") as file:
        cuts = (json.loads(line) for line in file)
        sources = {cut["id"]: cut["supervisions"][0]["custom"]["source"] for cut in cuts}
    with tempfile.TemporaryDirectory() as folder:
        for i in {i for batch in batches for i in batch}:
            soundfile.write(f"{folder}/{i}.flac", corpus.waveform(i).numpy(), 16_000)

        def flac(i: int) -> Tensor:
            return torch.from_numpy(soundfile.read(f"{folder}/{i}.flac", dtype="float32")[0])

        measure("prepared", batches, corpus, corpus.waveform)
        measure("FLAC", batches, corpus, flac)
        measure("sources", batches, corpus, lambda i: load(sources[corpus.entries[i].id]))


def measure(name: str, batches: list[list[int]], corpus: Corpus, read: Callable[[int], Tensor]) -> None:
    """Print hours of audio per hour of CPU, and milliseconds per batch."""
    hours = sum(corpus.entries[i].seconds for batch in batches for i in batch) / 3600
    nothing = torch.zeros(1, dtype=torch.long)
    for _ in range(2):
        started = time.process_time()
        for batch in batches:
            collate([Item(read(i), nothing) for i in batch])
        seconds = time.process_time() - started
    print(f"{name:10} {3600 * hours / seconds:9,.0f} h an hour {1000 * seconds / len(batches):8.2f} ms a batch")


if __name__ == "__main__":
    main()
