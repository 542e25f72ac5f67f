"""Word error rates of recordings decoded whole or cut at their pauses.

    python recipes/benchmark/pauses.py dev.jsonl [--joined 32] [--beam-size 16] [--search greedy,beam]

Two sets are made from a manifest: clips joined to 12 to 20 s with 0.7 s of silence between them, and single clips of 6
to 20 s. For each set and segmentation setting, it prints the word error rate and the number of recordings that were
cut.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import asr
from asr.archive.manifest import read
from asr.audio import SAMPLE_RATE, load
from asr.audio.segment import SegmentConfig, split
from asr.config import SearchConfig
from asr.recogniser import Recogniser
from asr.text.metrics import score

SILENCE_SECONDS = 0.7
WHOLE = SegmentConfig(min_silence_ms=10_000)  # no pause is as long
RULES = {"whole": WHOLE} | {
    f"{silence} ms, padding {padding} ms": SegmentConfig(min_silence_ms=silence, padding_ms=padding)
    for silence, padding in ((300, 150), (500, 250), (700, 250), (700, 350), (1000, 250))
}


class Recording(NamedTuple):
    """A waveform and its text."""

    waveform: Tensor
    text: str


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--joined", type=int, default=32, help="recordings made of several clips")
    parser.add_argument("--beam-size", type=int, help="the model's own by default")
    parser.add_argument("--search", default="greedy,beam", help="greedy, beam, or both with a comma")
    args = parser.parse_args()
    clips = [Recording(load(str(one.audio)), one.text) for one in read(args.manifest) if one.text]
    sets = {
        "joined": list(joined(clips, args.joined)),
        "single": [clip for clip in clips if 6 < len(clip.waveform) / SAMPLE_RATE <= 20],
    }

    recogniser = asr.load()
    own = recogniser.model.config.search
    searches = {
        "greedy": replace(own, beam_size=1, nbest=1),
        "beam": replace(own, beam_size=args.beam_size or own.beam_size),
    }
    print(f"{'set':8} {'search':8} {'rule':24} {'cut':>8} {'WER':>7}")
    for name, recordings in sets.items():
        for search in args.search.split(","):
            for rule, segment in RULES.items():
                cut, rate = measure(recogniser, recordings, searches[search], segment)
                print(f"{name:8} {search:8} {rule:24} {cut:3} / {len(recordings):<3} {rate:6.1%}", flush=True)


def joined(clips: Sequence[Recording], count: int) -> Iterator[Recording]:
    """Recordings of 12 to 20 s, each of several clips in random order with silence between them."""
    order = [clip for clip in clips if len(clip.waveform) <= 9 * SAMPLE_RATE]
    random.Random(0).shuffle(order)
    silence = torch.zeros(round(SILENCE_SECONDS * SAMPLE_RATE))
    parts: list[Tensor] = []
    texts: list[str] = []
    for clip in order:
        if count == 0:
            return
        samples = sum(map(len, parts)) + len(silence) + len(clip.waveform)
        if samples > 20 * SAMPLE_RATE:
            continue
        parts += [silence, clip.waveform] if parts else [clip.waveform]
        texts.append(clip.text)
        if samples >= 12 * SAMPLE_RATE:
            yield Recording(torch.cat(parts), " ".join(texts))
            parts, texts, count = [], [], count - 1


def measure(
    recogniser: Recogniser, recordings: Sequence[Recording], search: SearchConfig, segment: SegmentConfig
) -> tuple[int, float]:
    """Number of recordings that are cut, and the word error rate over all recordings."""
    spans = [(row, span) for row, one in enumerate(recordings) for span in split([one.waveform], segment)]
    texts: list[list[tuple[float, str]]] = [[] for _ in recordings]
    spans.sort(key=lambda pair: len(pair[1].waveform))
    for first in range(0, len(spans), 16):
        batch = spans[first : first + 16]
        decoded = recogniser.decode([span.waveform for _, span in batch], search, False)
        for (row, span), found in zip(batch, decoded, strict=True):
            texts[row].append((span.start_seconds, found.text))

    hypotheses = [" ".join(text for _, text in sorted(found) if text) for found in texts]
    pairs = zip(recordings, hypotheses, strict=True)
    counts = [score("", "", one.text, hypothesis, 0.0).words for one, hypothesis in pairs]
    return sum(len(found) > 1 for found in texts), reduce(add, counts).rate


if __name__ == "__main__":
    main()
