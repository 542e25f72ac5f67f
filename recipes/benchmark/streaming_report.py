"""Results of `streaming.py` as a table, data and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from asr.text import metrics
from asr.text.metrics import Scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["CHUNK_SECONDS", "Measured", "Memory", "Steps", "figure", "table", "to_json"]

CHUNK_SECONDS = 0.32


@dataclass
class Measured:
    """Results of one policy over all recordings; times in seconds."""

    name: str
    to_partial: list[float] = field(default_factory=list)  # from the end of a word until it is shown
    to_commit: list[float] = field(default_factory=list)  # from the end of a word until it is committed
    words: int = 0  # whose end is known
    shown: int = 0  # words that partials have shown
    changed: int = 0  # of these, words that later changed
    chunks: list[float] = field(default_factory=list)  # compute time of each, or of each pass over a growing buffer
    scored: list[Scored] = field(default_factory=list)
    audio_seconds: float = 0.0

    @property
    def changed_share(self) -> float:
        """Of the words that partials have shown, the share that later changed."""
        return self.changed / max(1, self.shown)

    @property
    def compute_rate(self) -> float:
        """Seconds of computing for a second of audio."""
        return sum(self.chunks) / self.audio_seconds if self.audio_seconds else float("nan")


class Steps(NamedTuple):
    """Cost of stepping live streams in a batch, a chunk at a time."""

    sessions: int
    seconds: list[float]  # of each step
    peak_bytes: int  # of memory in use by the process, or on the GPU, up to then


class Memory(NamedTuple):
    """Memory of the process or GPU during one long stream."""

    audio_seconds: float  # the length of the stream
    tenth_bytes: int  # memory after a tenth of the stream
    peak_bytes: int
    end_bytes: int


def quantiles(seconds: Sequence[float], *percents: float) -> list[float]:
    return [float(q) for q in np.percentile(seconds, percents)] if seconds else [float("nan")] * len(percents)


def wers(scored: Sequence[Scored]) -> dict[str, float]:
    """By corpus, then "total"."""
    return {summary.name: summary.words.rate for summary in metrics.summarise(scored)}


def wer(scored: Sequence[Scored]) -> float:
    return wers(scored)["total"]


def table(
    measured: Sequence[Measured], files: Sequence[Scored], steps: Sequence[Steps], memory: Memory | None
) -> Table:
    """A column per policy and peer; below, the cost of many streams and of a long one with the first policy."""
    from rich.table import Table

    made = Table(title=f"{len(files)} recordings, chunks of {1000 * CHUNK_SECONDS:.0f} ms")
    made.add_column("")
    for one in measured:
        made.add_column(one.name, justify="right")
    file_rate = wer(files)
    rows: list[tuple[str, Callable[[Measured], str]]] = [
        ("word's end to partial, median / p95 ms", lambda m: _ms(m.to_partial, 50, 95)),
        ("word's end to commit, median / p95 ms", lambda m: _ms(m.to_commit, 50, 95)),
        ("words found in a partial / committed %", lambda m: f"{_share(m.to_partial, m)} / {_share(m.to_commit, m)}"),
        ("words of partials that later change %", lambda m: f"{100 * m.changed_share:.1f}"),
        ("compute for a chunk or pass, median / p95 / p99 ms", lambda m: _ms(m.chunks, 50, 95, 99)),
        ("compute for a second of audio, ms", lambda m: f"{1000 * m.compute_rate:.0f}"),
        ("WER %, stream", lambda m: f"{100 * wer(m.scored):.1f}"),
        ("WER %, whole file", lambda m: f"{100 * file_rate:.1f}"),
        ("WER, stream / whole file", lambda m: f"{wer(m.scored) / file_rate:.3f}" if file_rate else "–"),
    ]
    for name, value in rows:
        made.add_row(name, *(value(one) for one in measured))
    whole, live = wers(files), [wers(one.scored) for one in measured]
    *corpora, _ = whole
    for corpus in corpora if len(corpora) > 1 else ():  # a single corpus equals the total
        heard = (f"{100 * rates[corpus]:.1f} / {100 * whole[corpus]:.1f}" for rates in live)
        made.add_row(f"WER %, stream / whole file, {corpus}", *heard)
    for step in steps:
        name = f"a step of {step.sessions} streams, p50 / p95 / p99 ms; peak MiB"
        made.add_row(name, f"{_ms(step.seconds, 50, 95, 99)}; {_mib(step.peak_bytes)}")
    if memory is not None:
        name = f"{memory.audio_seconds / 60:.0f} minutes in one stream: MiB after a tenth / peak / end"
        made.add_row(name, " / ".join(map(_mib, memory[1:])))
    return made


def _ms(seconds: Sequence[float], *percents: float) -> str:
    return " / ".join(f"{1000 * q:.0f}" for q in quantiles(seconds, *percents))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f}"


def _share(found: Sequence[float], measured: Measured) -> str:
    return f"{100 * len(found) / max(1, measured.words):.0f}"


def to_json(
    measured: Sequence[Measured],
    files: Sequence[Scored],
    steps: Sequence[Steps],
    memory: Memory | None,
    facts: dict[str, str],
) -> dict[str, Any]:
    """Plain values for `json.dumps`; times in seconds, null if unknown."""

    def times(seconds: Sequence[float]) -> dict[str, float | None]:
        names = ("median", "p95", "p99")
        return dict(zip(names, quantiles(seconds, 50, 95, 99) if seconds else [None] * 3, strict=True))

    return {
        "origin": facts,
        "whole_file_wer": wer(files),
        "whole_file_wers": wers(files),
        "policies": [
            {
                "name": m.name,
                "words": m.words,
                "words_shown": len(m.to_partial),
                "words_committed": len(m.to_commit),
                "to_partial_seconds": times(m.to_partial),
                "to_commit_seconds": times(m.to_commit),
                "partial_words_changed": m.changed_share,
                "chunk_compute_seconds": times(m.chunks),
                "compute_seconds_per_audio_second": m.compute_rate if m.audio_seconds else None,
                "wer": wer(m.scored),
                "wers": wers(m.scored),
            }
            for m in measured
        ],
        "sessions": [
            {"sessions": s.sessions, "step_seconds": times(s.seconds), "peak_bytes": s.peak_bytes} for s in steps
        ],
        "memory": None if memory is None else memory._asdict(),
    }


def figure(measured: Sequence[Measured], steps: Sequence[Steps]) -> Figure:
    """Plot the distribution of delays, and step time over the number of streams."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = made.subplots(1, 2, width_ratios=(3, 2))
    for i, one in enumerate(measured):
        for seconds, style, what in ((one.to_partial, "-", "shown"), (one.to_commit, "--", "committed")):
            share = np.arange(1, len(seconds) + 1) / max(1, one.words)
            left.plot(np.sort(seconds), 100 * share, style, color=f"C{i}", label=f"{one.name}: {what}")
    left.set(xlabel="seconds after the word's end", ylabel="% of the reference's words", xlim=(-0.5, 4), ylim=(0, 100))
    left.legend(loc="upper right")
    counts = [step.sessions for step in steps]
    for percent, marker in ((50, "o"), (95, "s"), (99, "^")):
        values = [1000 * quantiles(step.seconds, percent)[0] for step in steps]
        right.plot(counts, values, marker=marker, label=f"p{percent}")
    right.axhline(1000 * CHUNK_SECONDS, color="0.5", linestyle=":", label="length of a chunk")
    right.set(xlabel="live streams", ylabel="ms for a step", xscale="log", yscale="log", xticks=counts)
    right.set_xticklabels(map(str, counts))
    right.minorticks_off()
    right.legend()
    return made
