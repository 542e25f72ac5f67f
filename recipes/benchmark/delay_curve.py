"""Delay of words in live streams versus errors, changed words and cost, for a list of settings.

    python -m recipes.benchmark.delay_curve --manifest dev.jsonl

It prints a table and saves a plot. README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from asr.archive.manifest import Utterance, read
from asr.audio import SAMPLE_RATE
from asr.config import Context
from asr.transcript import Word
from asr.writing.parts import Style
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.streaming import PAUSE_SECONDS, Shown, add, reference_words
from recipes.benchmark.streaming_report import CHUNK_SECONDS, Measured, quantiles, wer
from recipes.benchmark.whole_file import pick
from streaming.engine import Engine, StreamConfig
from streaming.events import Event, Final
from streaming.policy import PolicyConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["SETTINGS", "Point", "Setting", "figure", "hear_together", "table"]


@dataclass(frozen=True)
class Setting:
    """The settings of a point on the curve."""

    chunk_ms: int
    lookahead_ms: int
    overlap_ms: int
    beam_size: int
    policy: PolicyConfig

    @property
    def name(self) -> str:
        """Chunk + lookahead, overlap, beam, margin + doubt - agreement, show margin; times in ms."""
        margin = f"{self.policy.margin_ms}+{self.policy.doubt_ms}-{self.policy.agreement_ms}"
        sizes = f"{self.chunk_ms}+{self.lookahead_ms}, {self.overlap_ms}, {self.beam_size}"
        return f"{sizes}, {margin}, {self.policy.show_margin_ms}"

    def config(self, style: Style = "spoken") -> StreamConfig:
        return StreamConfig(
            context=Context(self.chunk_ms, self.lookahead_ms),
            policy=self.policy,
            overlap_ms=self.overlap_ms,
            partial_beam_size=self.beam_size,
            style=style,
        )


SETTINGS = (
    Setting(600, 240, 1200, 8, PolicyConfig(margin_ms=640, doubt_ms=0, agreement_ms=0, show_margin_ms=0)),
    Setting(400, 80, 1200, 8, PolicyConfig(margin_ms=800, doubt_ms=0)),
    Setting(400, 80, 1200, 8, PolicyConfig()),
    Setting(400, 80, 1200, 8, PolicyConfig(margin_ms=720)),
    Setting(400, 80, 800, 8, PolicyConfig()),
    Setting(320, 80, 1280, 8, PolicyConfig()),
)


@dataclass
class Point:
    """Results of a setting; times in seconds of the stream, without computing time."""

    measured: Measured
    audio_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def cost(self) -> float:
        """CPU seconds for each second of a stream."""
        return self.cpu_seconds / max(self.audio_seconds, 1e-9)


@dataclass
class _Slot:
    """A recording in progress."""

    clip: int
    waveform: Tensor
    session: Any
    at: int = 0
    shown: list[Shown] = field(default_factory=list)


def hear_together(
    engine: Engine, name: str, clips: Sequence[tuple[Utterance, Tensor, list[Word]]], streams: int
) -> Point:
    """Run the recordings as live streams, a fixed number at a time; when one ends, the next begins."""
    point, size = Point(Measured(name)), round(CHUNK_SECONDS * SAMPLE_RATE)
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    waiting = sorted(range(len(clips)), key=lambda i: len(clips[i][1]))  # the longest is last, and heard first
    heard: list[list[Shown]] = [[] for _ in clips]
    slots: list[_Slot] = []
    while waiting or slots:
        while waiting and len(slots) < streams:
            clip = waiting.pop()
            slots.append(_Slot(clip, torch.cat([clips[clip][1], pause]), engine.start(), shown=heard[clip]))
        chunks = [slot.waveform[slot.at : slot.at + size] for slot in slots]
        final = [slot.at + size >= len(slot.waveform) for slot in slots]
        started = time.process_time()
        sessions, events = engine.step([slot.session for slot in slots], chunks, final)
        point.cpu_seconds += time.process_time() - started
        point.audio_seconds += sum(map(len, chunks)) / SAMPLE_RATE
        for slot, session, found in zip(slots, sessions, events, strict=True):
            slot.session, slot.at = session, slot.at + size
            slot.shown += [Shown(_spoken(event), event.heard_seconds) for event in found]
        slots = [slot for slot, ended in zip(slots, final, strict=True) if not ended]

    for (utterance, _, reference), shown in zip(clips, heard, strict=True):
        add(point.measured, utterance, reference, shown)
    return point


def _spoken(event: Event) -> Event:
    return replace(event, segment=event.segment.as_spoken()) if isinstance(event, Final) else event


def table(points: Sequence[Point]) -> Table:
    """A row for each setting."""
    from rich.table import Table

    made = Table(title=f"{len(points[0].measured.scored)} recordings")
    made.add_column("chunk+lookahead, overlap, beam, margin+doubt-agreement, show margin")
    for column in ("shown, median / p95 ms", "commit", "changed %", "WER %", "CPU s/s"):
        made.add_column(column, justify="right")
    for point in points:
        one = point.measured
        shown, committed = ((f"{1000 * q:.0f}" for q in quantiles(x, 50, 95)) for x in (one.to_partial, one.to_commit))
        changed, errors = 100 * one.changed_share, 100 * wer(one.scored)
        made.add_row(
            one.name, " / ".join(shown), " / ".join(committed), f"{changed:.1f}", f"{errors:.1f}", f"{point.cost:.3f}"
        )
    return made


def figure(points: Sequence[Point]) -> Figure:
    """Error rate and changed words over the median delays."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = made.subplots(1, 2)
    for i, point in enumerate(points):
        one, label = point.measured, str(i + 1)
        commit, shown = (1000 * quantiles(x, 50)[0] for x in (one.to_commit, one.to_partial))
        for axes, x, y in (
            (left, commit, 100 * wer(one.scored)),
            (right, shown, 100 * one.changed_share),
        ):
            axes.plot(x, y, "o", color="C0")
            axes.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points")
    for axes in (left, right):
        axes.margins(0.12)  # room for the numbers
    left.set(xlabel="from a word's end to its commit, median ms", ylabel="word error rate, %")
    right.set(xlabel="from a word's end to its right showing, median ms", ylabel="shown words that change, %")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.delay_curve", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--manifest", type=Path, default=Path("dev.jsonl"), help="utterances with audio and text, as JSON lines")
    add("--limit", type=int, help="measure only N recordings, spread evenly over the manifest")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--streams", type=int, default=16, help="streams at once, as one batch")
    add("--settings", type=int, nargs="*", help="numbers of the settings to run, from 1 on; default: all")
    add("--style", choices=get_args(Style), default="spoken", help="of the text; only the CPU time differs")
    add("--json", action="store_true", help="print JSON in place of the table")
    add("--plot", type=Path, default=Path("delay_curve.svg"), help="where to save the plot")
    options = parser.parse_args(arguments)

    def benchmark() -> Report:
        points, facts = _benchmark(options, arguments)
        figure(points).savefig(options.plot)
        return Report({"settings": [_plain(point) for point in points], **facts}, table(points), facts)

    return report(benchmark, options.json)


def _benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[list[Point], dict[str, str]]:
    import asr
    from asr import audio

    torch.set_num_threads(1)
    recogniser = asr.load(options.model, device="cpu")
    loaded = ((utterance, audio.load(utterance.audio)) for utterance in pick(read(options.manifest), options.limit))
    clips = [(u, waveform, reference_words(recogniser, u, waveform)) for u, waveform in loaded]
    points = []
    for number in options.settings or range(1, len(SETTINGS) + 1):
        setting = SETTINGS[number - 1]
        engine = Engine(recogniser, setting.config(options.style))
        points.append(hear_together(engine, f"{number}: {setting.name}", clips, options.streams))
        print(f"{number} of {len(SETTINGS)}", file=sys.stderr)
    return points, {**origin("delay_curve", arguments, recogniser.device), **weights(recogniser.folder)}


def _plain(point: Point) -> dict[str, Any]:
    one = point.measured
    return {
        "name": one.name,
        "shown_seconds": quantiles(one.to_partial, 50, 95),
        "commit_seconds": quantiles(one.to_commit, 50, 95),
        "changed": one.changed_share,
        "wer": wer(one.scored),
        "cpu_seconds_per_second": point.cost,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
