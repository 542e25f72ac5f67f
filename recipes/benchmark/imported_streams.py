"""Streams of an imported model against whole files: word error rate and CPU time by chunk and overlap.

    python -m recipes.benchmark.imported_streams test.jsonl --corpus an4 --model crdnn/imported-float16

An encoder trained on whole utterances has never seen one that ends with a chunk. The overlap is the audio that is
encoded again with each new chunk, with more audio after it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.config import Context
from asr.text import metrics
from recipes.benchmark.imported_clips import Clip, load
from streaming.endpoint import EndpointConfig
from streaming.engine import Engine, StreamConfig
from streaming.events import Final

__all__ = ["heard", "main", "row"]

PAUSE_SECONDS = 1.5  # silence after each stream, as when a speaker stops
PUSHED_SAMPLES = 3_200  # pushed at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Recognise all recordings as whole files, then as streams of each chunk and overlap, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines with audio and text")
    parser.add_argument("--model", required=True, help="the imported model")
    parser.add_argument("--corpus", help="only the utterances of this corpus")
    parser.add_argument("--least-seconds", type=float, default=0.0, help="leave out shorter utterances")
    parser.add_argument("--utterances", type=int, help="only the shortest of them")
    parser.add_argument("--chunks", type=int, nargs="+", default=[320, 640, 1_280], help="in ms")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1_200, 3_000, 10_000], help="in ms")
    parser.add_argument("--lookahead", type=int, default=240, help="in ms")
    parser.add_argument("--silence", type=int, default=700, help="pause that ends an utterance, in ms")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)

    clips = load(options.manifest, options.corpus, options.least_seconds)[: options.utterances]
    recogniser = asr.load(options.model, device="cpu")
    print(f"{len(clips)} utterances, {sum(len(clip.waveform) for clip in clips) / SAMPLE_RATE:.0f} s\n")
    print("| chunk | overlap | latency | WER | CPU s for a second of audio |\n|---|---|---|---|---|")
    whole = row(clips, lambda waveform: recogniser.transcribe(waveform, SAMPLE_RATE, style="spoken").text)
    print(f"| whole files | | | {whole}")
    for chunk in options.chunks:
        for overlap in options.overlaps:
            endpoint = EndpointConfig(min_silence_ms=options.silence)
            config = StreamConfig(Context(chunk, options.lookahead), endpoint, overlap_ms=overlap, style="spoken")
            engine = Engine(recogniser, config)
            found = row(clips, lambda waveform, engine=engine: heard(engine, paused(waveform)))  # type: ignore[misc]
            print(f"| {chunk} ms | {overlap} ms | {engine.latency_ms:.0f} ms | {found}", flush=True)
    return 0


def row(clips: Sequence[Clip], recognise: Callable[[Tensor], str]) -> str:
    """Word error rate, and CPU time for a second of audio, as the last cells of a line of the table."""
    start, scored, seconds = time.process_time(), [], 0.0
    for i, clip in enumerate(clips):
        length = len(clip.waveform) / SAMPLE_RATE
        scored.append(metrics.score(str(i), "", clip.text, recognise(clip.waveform), length))
        seconds += length
    spent = time.process_time() - start
    return f"{100 * metrics.summarise(scored)[-1].words.rate:.1f} % | {spent / seconds:.4f} |"


def paused(waveform: Tensor) -> Tensor:
    """A recording with silence after it."""
    return torch.cat([waveform, torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))])


def heard(engine: Engine, waveform: Tensor) -> str:
    """The final text of a recording processed as a stream."""
    session, texts = engine.start(), []
    pieces = waveform.split(PUSHED_SAMPLES)
    for i, piece in enumerate(pieces):
        (session,), (events,) = engine.step([session], [piece], [i == len(pieces) - 1])
        texts += [event.text for event in events if isinstance(event, Final)]
    return " ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
