"""CPU speed on whole files, one thread: Spellstream, one file at a time and in batches, beside PocketSphinx.

    python -m recipes.benchmark.whole_file --manifest test.jsonl

All systems get the same 16-bit samples in the same run and take turns file by file, so that whatever else the machine
does meets them all alike. See README.md beside this file for what is measured.
"""

from __future__ import annotations

import argparse
import io
import platform
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from asr.archive.manifest import Utterance, read
from asr.errors import DataError, DependencyError, SpellstreamError
from asr.text import metrics
from asr.text.metrics import Scored, Summary
from asr.text.normalise import normalise
from recipes.benchmark.origin import Report, origin, report, weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from asr.recogniser import Recogniser

__all__ = ["Clip", "System", "Tally", "measure", "pick", "table", "to_json"]

PEER = "PocketSphinx"
BATCH = 16
GROUP = 8 * BATCH  # files that a batched system may sort by length, and after which all systems stand level
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Clip:
    """An utterance with its samples in memory, so that reading the disk is not measured."""

    utterance: Utterance
    pcm: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


@dataclass(frozen=True)
class System:
    """A recogniser under test; `recognise` returns a text for each clip, and gets only one unless `batched`."""

    name: str
    recognise: Callable[[Sequence[Clip]], list[str]]
    batched: bool = False


@dataclass
class Tally:
    """Time and errors of a system so far."""

    name: str
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    audio_seconds: float = 0.0
    scored: list[Scored] = field(default_factory=list)

    @property
    def cpu_rate(self) -> float:
        """CPU seconds per second of audio."""
        return self.cpu_seconds / self.audio_seconds

    @property
    def wall_rate(self) -> float:
        """Wall seconds per second of audio."""
        return self.wall_seconds / self.audio_seconds

    def summaries(self) -> list[Summary]:
        return metrics.summarise(self.scored)


def measure(system: System, clips: Sequence[Clip], tally: Tally) -> None:
    """Recognise clips with a system, and add its time and errors."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = system.recognise(clips)
    tally.cpu_seconds += time.process_time() - cpu
    tally.wall_seconds += time.perf_counter() - wall
    for clip, text in zip(clips, texts, strict=True):
        tally.audio_seconds += clip.seconds
        tally.scored.append(_scored(clip, text))


def run(systems: Sequence[System], groups: Iterator[list[Clip]]) -> list[Tally]:
    """Run all systems in turn on groups of clips, after a warm-up."""
    tallies = {system.name: Tally(system.name) for system in systems}
    single = [system for system in systems if not system.batched]
    done = 0
    for group in groups:
        if done == 0:
            for system in systems:
                system.recognise(group[:1])
        for clip in group:
            turn = done % len(single)
            for system in single[turn:] + single[:turn]:
                measure(system, [clip], tallies[system.name])
            done += 1
        for system in systems:
            if system.batched:
                measure(system, group, tallies[system.name])
        print(f"{done} utterances", file=sys.stderr)
    return list(tallies.values())


def pick(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """Transcribed utterances, at most `limit`, evenly spread over the manifest."""
    usable = [utterance for utterance in utterances if utterance.text is not None]
    count = len(usable) if limit is None else min(limit, len(usable))
    if count <= 0:
        raise DataError(
            f"no utterance to measure: {len(usable)} of {len(utterances)} have a text, the limit is {limit}"
        )
    return [usable[i * len(usable) // count] for i in range(count)]


def speedup(tally: Tally, tallies: Sequence[Tally]) -> float | None:
    """Speed-up over the peer by CPU time; None without the peer."""
    peer = next((other for other in tallies if other.name == PEER), None)
    return None if peer is None else peer.cpu_rate / tally.cpu_rate


def table(tallies: Sequence[Tally]) -> Table:
    """Seconds per second of audio, speed-up over the peer by CPU time, WER in percent."""
    from rich.table import Table

    summaries = {tally.name: tally.summaries() for tally in tallies}
    first = tallies[0]
    made = Table(title=f"{len(first.scored)} files, {first.audio_seconds / 60:.1f} minutes, one thread")
    made.add_column("system", no_wrap=True)
    for heading in ("CPU s/s", "wall s/s", "speed-up"):
        made.add_column(heading, justify="right")
    for summary in summaries[first.name]:
        made.add_column(f"WER % {summary.name}", justify="right")
    for tally in tallies:
        faster = speedup(tally, tallies)
        made.add_row(
            tally.name,
            f"{tally.cpu_rate:.4f}",
            f"{tally.wall_rate:.4f}",
            "–" if faster is None else f"{faster:.1f}",
            *(f"{100 * summary.words.rate:.1f}" for summary in summaries[tally.name]),
        )
    return made


def to_json(tallies: Sequence[Tally], origin: dict[str, str]) -> dict[str, object]:
    """Plain values for `json.dumps`: origin and results."""
    return {
        "origin": origin,
        "systems": [
            {
                "name": tally.name,
                "audio_seconds": tally.audio_seconds,
                "cpu_seconds": tally.cpu_seconds,
                "wall_seconds": tally.wall_seconds,
                "cpu_seconds_per_audio_second": tally.cpu_rate,
                "wall_seconds_per_audio_second": tally.wall_rate,
                "times_faster_than_peer": speedup(tally, tallies),
                "summaries": metrics.to_json(tally.summaries())["summaries"],
            }
            for tally in tallies
        ],
    }


def pocketsphinx() -> System:
    """PocketSphinx with the model and language model that it installs with.

    Raises:
        DependencyError: if it is not installed.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise DependencyError(f"{PEER} is not installed: pip install 'spellstream[benchmark]'") from None
    decoder = Decoder(loglevel="FATAL")

    def recognise(clips: Sequence[Clip]) -> list[str]:
        texts = []
        for clip in clips:
            decoder.start_utt()
            decoder.process_raw(clip.pcm.tobytes(), full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            texts.append("" if hypothesis is None else hypothesis.hypstr)
        return texts

    return System(PEER, recognise)


def spellstream(recogniser: Recogniser, beam_size: int, batch_size: int) -> System:
    """Spellstream by `Recogniser.transcribe_many`, with the model's settings except for the beam."""
    search = replace(recogniser.model.config.search, beam_size=beam_size, nbest=1)

    def recognise(clips: Sequence[Clip]) -> list[str]:
        files = [_wav(clip) for clip in clips]
        texts = {}
        for outcome in recogniser.transcribe_many(files, search=search, word_timestamps=False, batch_size=batch_size):
            if outcome.transcript is None:
                raise outcome.error or SpellstreamError("no transcript")
            texts[id(outcome.source)] = outcome.transcript.text
        return [texts[id(file)] for file in files]

    name = "greedy" if beam_size == 1 else f"beam {beam_size}"
    batched = batch_size > 1
    return System(f"{name}, batch {batch_size}" if batched else name, recognise, batched)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.whole_file", description=__doc__.split("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True, help="utterances with audio and text, as JSON lines")
    parser.add_argument("--limit", type=int, help="measure only so many, spread evenly over the manifest")
    parser.add_argument("--model", default="default", help="a shipped model's name or a checkpoint folder")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)

    def benchmark() -> Report:
        tallies, facts = _benchmark(options.manifest, options.limit, options.model, arguments)
        return Report(to_json(tallies, facts), table(tallies), facts)

    return report(benchmark, options.json)


def _benchmark(
    manifest: Path, limit: int | None, model: str, arguments: Sequence[str]
) -> tuple[list[Tally], dict[str, str]]:
    import torch

    import asr

    torch.set_num_threads(1)
    chosen = pick(read(manifest), limit)
    peer = pocketsphinx()
    recogniser = asr.load(model, device="cpu")
    ours = [spellstream(recogniser, beam_size, batch_size) for batch_size in (1, BATCH) for beam_size in (1, 8)]
    tallies = run([peer, *ours], _groups(chosen))
    versions = f"torch {torch.__version__}, pocketsphinx {version('pocketsphinx')}, {platform.python_version()}"
    return tallies, {**origin("whole_file", arguments), **weights(recogniser.folder), "versions": versions}


def _groups(utterances: Sequence[Utterance]) -> Iterator[list[Clip]]:
    for start in range(0, len(utterances), GROUP):
        yield [_clip(utterance) for utterance in utterances[start : start + GROUP]]


def _clip(utterance: Utterance) -> Clip:
    from asr import audio

    samples = audio.load(utterance.audio).clamp(-1, 1).numpy()
    return Clip(utterance, (samples * 32767).round().astype("int16"))


def _wav(clip: Clip) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(clip.pcm.tobytes())
    file.seek(0)
    return file


def _scored(clip: Clip, text: str) -> Scored:
    """Normalise both sides alike; digits and other scripts stay."""
    utterance = clip.utterance
    reference, hypothesis = (normalise(t) or t for t in (utterance.text or "", text))
    return metrics.score(utterance.id, utterance.corpus, reference, hypothesis, clip.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
