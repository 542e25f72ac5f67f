"""CPU speed and word error rate on whole files, one thread: Spellstream, alone and in batches, beside its peers.

    python -m recipes.benchmark.whole_file --manifest test.jsonl --peer pocketsphinx --peer faster-whisper:models/tiny

All systems get the same 16-bit samples in the same run and take turns file by file, so that other load on the machine
affects all of them equally. README.md beside this file describes the measurements.
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
from pathlib import Path
from typing import TYPE_CHECKING

from asr.archive.manifest import Utterance, read
from asr.errors import DataError, SpellstreamError
from asr.text import metrics
from asr.text.metrics import Scored, Summary
from asr.text.normalise import fold, normaliser
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.peers import SAMPLE_RATE, Clip, System, peer

if TYPE_CHECKING:
    from rich.table import Table

    from asr.recogniser import Recogniser

__all__ = ["Result", "measure", "pick", "run", "table", "to_json"]

BATCH = 16
GROUP = 8 * BATCH  # files that a batched system sorts by length; all systems do a group before the next


@dataclass
class Result:
    """Time and errors of a system so far; `normalise` applies to both sides of a score."""

    name: str
    normalise: Callable[[str], str] = fold
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


def measure(system: System, clips: Sequence[Clip], one: Result) -> None:
    """Recognise clips with a system, and add its time and errors."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = system.recognise(clips)
    one.cpu_seconds += time.process_time() - cpu
    one.wall_seconds += time.perf_counter() - wall
    for clip, text in zip(clips, texts, strict=True):
        one.audio_seconds += clip.seconds
        sides = one.normalise(clip.utterance.text or ""), one.normalise(text)
        one.scored.append(metrics.score(clip.utterance.id, clip.utterance.corpus, *sides, clip.seconds))


def run(
    systems: Sequence[System], groups: Iterator[list[Clip]], normalise: Callable[[str], str] = fold
) -> list[Result]:
    """Run all systems in turn on groups of clips, after a warm-up."""
    measured = {system.name: Result(system.name, normalise) for system in systems}
    single = [system for system in systems if not system.batched]
    done = 0
    for group in groups:
        if done == 0:
            for system in systems:
                system.recognise(group[:1])
        for clip in group:
            turn = done % len(single)
            for system in single[turn:] + single[:turn]:
                measure(system, [clip], measured[system.name])
            done += 1
        for system in systems:
            if system.batched:
                measure(system, group, measured[system.name])
        print(f"{done} utterances", file=sys.stderr)
    return list(measured.values())


def pick(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """Transcribed utterances, at most `limit`, evenly spread over the manifest."""
    usable = [utterance for utterance in utterances if utterance.text is not None]
    count = len(usable) if limit is None else min(limit, len(usable))
    if count <= 0:
        raise DataError(
            f"no utterance to measure: {len(usable)} of {len(utterances)} have a text, the limit is {limit}"
        )
    return [usable[i * len(usable) // count] for i in range(count)]


def speedup(one: Result, measured: Sequence[Result]) -> float:
    """Speed-up over the first system by CPU time."""
    return measured[0].cpu_rate / one.cpu_rate


def table(measured: Sequence[Result]) -> Table:
    """Seconds per second of audio, speed-up over the first system by CPU time, WER in percent."""
    from rich.table import Table

    summaries = {one.name: one.summaries() for one in measured}
    first = measured[0]
    made = Table(title=f"{len(first.scored)} files, {first.audio_seconds / 60:.1f} minutes, one thread")
    made.add_column("system", no_wrap=True)
    for heading in ("CPU s/s", "wall s/s", "speed-up"):
        made.add_column(heading, justify="right")
    for summary in summaries[first.name]:
        made.add_column(f"WER % {summary.name}", justify="right")
    for one in measured:
        made.add_row(
            one.name,
            f"{one.cpu_rate:.4f}",
            f"{one.wall_rate:.4f}",
            f"{speedup(one, measured):.1f}",
            *(f"{100 * summary.words.rate:.1f}" for summary in summaries[one.name]),
        )
    return made


def to_json(measured: Sequence[Result], origin: dict[str, str]) -> dict[str, object]:
    """Plain values for `json.dumps`: origin and results."""
    return {
        "origin": origin,
        "systems": [
            {
                "name": one.name,
                "audio_seconds": one.audio_seconds,
                "cpu_seconds": one.cpu_seconds,
                "wall_seconds": one.wall_seconds,
                "cpu_seconds_per_audio_second": one.cpu_rate,
                "wall_seconds_per_audio_second": one.wall_rate,
                "times_faster_than_peer": speedup(one, measured),
                "summaries": metrics.to_json(one.summaries())["summaries"],
            }
            for one in measured
        ],
    }


def spellstream(recogniser: Recogniser, beam_size: int, batch_size: int) -> System:
    """Spellstream by `Recogniser.transcribe_many`, with the model's settings except for the beam."""
    search = replace(recogniser.model.config.search, beam_size=beam_size, nbest=1)

    def recognise(clips: Sequence[Clip]) -> list[str]:
        files = [_wav(clip) for clip in clips]
        texts = {}
        outcomes = recogniser.transcribe_many(
            files, search=search, word_timestamps=False, batch_size=batch_size, style="spoken"
        )
        for outcome in outcomes:
            if outcome.transcript is None:
                raise outcome.error or SpellstreamError("no transcript")
            texts[id(outcome.source)] = outcome.transcript.text
        return [texts[id(file)] for file in files]

    name = "Spellstream, greedy" if beam_size == 1 else f"Spellstream, beam {beam_size}"
    batched = batch_size > 1
    return System(f"{name}, batch {batch_size}" if batched else name, recognise, batched)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.whole_file", description=__doc__.split("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True, help="utterances with audio and text")
    parser.add_argument("--limit", type=int, help="utterances to measure, spread evenly over the manifest")
    parser.add_argument("--model", default="default", help="a shipped model's name or a checkpoint folder")
    parser.add_argument(
        "--peer",
        action="append",
        metavar="NAME",
        help="pocketsphinx, or faster-whisper:DIR with a CTranslate2 model in DIR; repeatable (default: pocketsphinx)",
    )
    parser.add_argument(
        "--normaliser", choices=("plain", "whisper"), default="plain", help="of both sides of the word error rate"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)

    def benchmark() -> Report:
        measured, facts = _benchmark(options, arguments)
        return Report(to_json(measured, facts), table(measured), facts)

    return report(benchmark, options.json)


def _benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Result], dict[str, str]]:
    import torch

    import asr

    torch.set_num_threads(1)
    chosen = pick(read(options.manifest), options.limit)
    normalise = normaliser(options.normaliser)
    others = [peer(name) for name in options.peer or ["pocketsphinx"]]
    recogniser = asr.load(options.model, device="cpu")
    beams = (1, recogniser.model.config.search.beam_size)
    ours = [spellstream(recogniser, beam_size, batch_size) for batch_size in (1, BATCH) for beam_size in beams]
    measured = run([*others, *ours], _groups(chosen), normalise)
    known = [f"torch {torch.__version__}", *(one.version for one in others), platform.python_version()]
    versions = ", ".join(dict.fromkeys(known))
    return measured, {**origin("whole_file", arguments), **weights(recogniser.folder), "versions": versions}


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
