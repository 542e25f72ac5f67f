"""Capacity of one GPU: simultaneous live streams, files in batches, and hours of speech per hour of training.

    python -m recipes.benchmark.gpu --output gpu.json
    python -m recipes.benchmark.gpu --only streams --dtype bfloat16 --output gpu.json

Each result is saved in the output file at once. A further run with the same model on the same GPU adds to the file, so
that the benchmark can run in parts. README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.errors import DataError
from asr.model import fast
from asr.recogniser import DTYPES, resolve_device
from asr.training.precision import has_bfloat16
from recipes.benchmark import training
from recipes.benchmark.gpu_report import Results, table
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.streaming_report import quantiles

if TYPE_CHECKING:
    from asr.recogniser import Recogniser

__all__ = ["main"]

PARTS = ("streams", "files", "training")
SAMPLE = Path(__file__).parent.parent / "sample.flac"
PAUSE_SECONDS = 1.5  # of silence after each recording of a stream
WARM_UP = 0.25  # share of the steps that is not counted; while segments begin, graphs are captured


def live(recogniser: Recogniser, recordings: Sequence[Tensor], count: int, seconds: float) -> dict[str, Any]:
    """Step `count` live streams together by one chunk at a time, each at another place in the recordings."""
    from streaming.engine import Engine

    engine = Engine(recogniser)
    pause, size = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE)), engine.chunk_samples
    spoken = torch.cat([part for recording in recordings for part in (recording, pause)])
    steps = max(2, round(seconds * SAMPLE_RATE / size))
    endless = spoken.repeat(2 + steps * size // len(spoken))
    starts = [i * len(spoken) // count for i in range(count)]

    sessions, taken = [engine.start() for _ in starts], []
    _forget_peak(engine.device)
    for at in range(0, steps * size, size):
        chunks = [endless[start + at : start + at + size] for start in starts]
        began = time.perf_counter()
        sessions, _ = engine.step(sessions, chunks)
        _wait(engine.device)
        taken.append(time.perf_counter() - began)

    counted = taken[round(WARM_UP * steps) :]
    median, p95 = quantiles(counted, 50, 95)
    chunk = size / SAMPLE_RATE
    return {
        "chunk_seconds": chunk,
        "step_seconds": {"median": median, "p95": p95},
        "real_time_factor": sum(counted) / len(counted) / chunk,
        "keeps_up": p95 <= chunk,
        "peak_bytes": _peak(engine.device),
    }


def files(recogniser: Recogniser, recordings: Sequence[Tensor], batch: int, greedy: bool) -> dict[str, Any]:
    """Transcribe twice as many recordings as a batch has, from samples in memory to text, after as much warm-up."""
    search = recogniser.model.config.search
    search = replace(search, beam_size=1) if greedy else search
    some = list(itertools.islice(itertools.cycle(recordings), 2 * batch))

    def run() -> float:
        began = time.perf_counter()
        found = recogniser.transcribe_many(some, search=search, word_timestamps=False, batch_size=batch, style="spoken")
        for outcome in found:
            if outcome.error is not None:
                raise outcome.error
        _wait(recogniser.device)
        return time.perf_counter() - began

    run()
    _forget_peak(recogniser.device)
    taken, audio = run(), sum(map(len, some)) / SAMPLE_RATE
    return {
        "audio_seconds": audio,
        "seconds": taken,
        "rtfx": audio / taken,
        "peak_bytes": _peak(recogniser.device),
    }


def train(size: str, dtype: str, device: torch.device, steps: int, batch_seconds: float) -> dict[str, Any]:
    """Train a model of a size on noise, as `recipes.benchmark.training` does, without the peer."""
    torch.manual_seed(1)
    settings = training.SIZES[size]
    work = training.batches(steps, batch_seconds, settings.vocab_size, device)
    (measured,) = training.measure([training.spellstream(settings, device, DTYPES[dtype])], work, device)
    return {
        "parameters": measured.parameters,
        "audio_seconds": measured.audio_seconds,
        "hours_per_hour": measured.hours_per_hour(cpu=False),
        "peak_bytes": measured.memory_bytes,
    }


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    """Most memory allocated on the GPU; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parser().parse_args(arguments)

    def benchmark() -> Report:
        data = _benchmark(options, arguments).data
        return Report(data, table(data), data["origin"])

    return report(benchmark, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.gpu", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; all if left out")
    add("--streams", type=int, nargs="+", default=[1, 64, 512, 2048, 4096], help="live streams at once")
    add("--batch", type=int, nargs="+", default=[64, 256], help="files in a batch")
    add("--size", nargs="+", choices=training.SIZES, default=["small", "full"], help="of the models that are trained")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"], help="that models compute in")
    add("--seconds", type=float, default=12.0, help="of audio that each stream hears")
    add("--steps", type=int, default=10, help="of training")
    add("--batch-seconds", type=float, default=600.0, help="of audio in a batch of training")
    add("--manifest", type=Path, help="recordings, as JSON lines; the sample of the README if left out")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--device", default="cuda", help="cuda; cpu for a rehearsal, on one thread")
    add("--output", type=Path, help="file for the results as JSON; a run adds to what is in it")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def _benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> Results:
    import asr

    device = resolve_device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # on a busy machine, several wait seconds for each other at each step
    recordings = _recordings(options.manifest)
    results: Results | None = None
    for dtype in options.dtype:
        recogniser = asr.load(options.model, device=options.device, dtype=dtype)
        results = results or Results(options.output, _facts(options, arguments, recogniser, recordings))
        for part, settings, work in _work(options, recogniser, recordings, device):
            settings = {**settings, "dtype": dtype}
            told = ", ".join(f"{name} {value}" for name, value in settings.items())
            if results.has(part, settings):
                print(f"{part}, {told}: in {options.output} already", file=sys.stderr)
            else:
                results.add(part, settings, work())
                print(f"{part}, {told}", file=sys.stderr)
    if results is None:
        raise DataError("--dtype: none given")
    return results


def _work(
    options: argparse.Namespace, recogniser: Recogniser, recordings: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The measurements with a recogniser: part, settings, and the function that measures."""
    if "streams" in options.only:
        for count in options.streams:
            yield "streams", {"streams": count}, partial(live, recogniser, recordings, count, options.seconds)
    if "files" in options.only:
        for batch, search in itertools.product(options.batch, ("default", "greedy")):
            work = partial(files, recogniser, recordings, batch, search == "greedy")
            yield "files", {"batch": batch, "search": search}, work
    trained = ("float32", "bfloat16") if has_bfloat16(device.type) else ("float32",)
    if "training" in options.only and recogniser.dtype in trained:
        for size in options.size:
            work = partial(train, size, recogniser.dtype, device, options.steps, options.batch_seconds)
            yield "training", {"size": size}, work


def _recordings(manifest: Path | None) -> list[Tensor]:
    from asr import audio
    from asr.archive.manifest import read

    return [audio.load(path) for path in ([SAMPLE] if manifest is None else [one.audio for one in read(manifest)])]


def _facts(
    options: argparse.Namespace, arguments: Sequence[str], recogniser: Recogniser, recordings: Sequence[Tensor]
) -> dict[str, str]:
    """The origin of the numbers, and the settings that all of them share."""
    facts = {**origin("gpu", arguments, recogniser.device), **weights(recogniser.folder)}
    if recogniser.device.type == "cuda":
        card = torch.cuda.get_device_properties(recogniser.device)
        facts["memory"] = f"{card.total_memory / 2**30:.0f} GiB"
    seconds = sum(map(len, recordings)) / SAMPLE_RATE
    return {
        **facts,
        "versions": f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
        "fast paths": "on" if fast.enabled() else "off",
        "recordings": f"{len(recordings)}, {seconds:.0f} s; each stream hears {options.seconds:g} s",
        "training": f"{options.steps} batches of {options.batch_seconds:g} s",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
