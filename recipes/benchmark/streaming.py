"""Live streams: how late words come, how often they change, what a chunk costs, and how many streams a machine bears.

    python -m recipes.benchmark.streaming --manifest dev.jsonl

Recordings are heard as a microphone would bring them, but as fast as they can be; the time that it takes is added on
the stream's clock. See README.md beside this file for what is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr import metrics
from asr.audio import SAMPLE_RATE
from asr.config import Context
from asr.ctc import align
from asr.errors import SpellstreamError
from asr.manifest import Utterance, read
from asr.metrics import Scored
from asr.segment import WINDOW_SAMPLES
from asr.tokenizer import normalise
from asr.transcript import Word
from recipes.benchmark import whole_file
from streaming.engine import Engine, StreamConfig
from streaming.events import Event, Final, Partial
from streaming.policy import PolicyConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from asr.transcribe import Recogniser

__all__ = ["Measured", "Shown", "Steps", "delays", "figure", "flicker", "live", "table", "to_json"]

POLICIES = ("ctc", "attention", "agreement")
CHUNK_SECONDS = 0.32
PAUSE_SECONDS = 1.5  # silence after each recording, so that its last words come as they do when someone stops to speak
NEAR_SECONDS = 0.5  # a word that is shown is that of the reference if their ends are no further apart


class Shown(NamedTuple):
    """An event, and when it came."""

    event: Event
    clock_seconds: float


@dataclass
class Measured:
    """What one policy has done with all recordings; times are in seconds."""

    name: str
    to_partial: list[float] = field(default_factory=list)  # from a word's end until it is shown
    to_commit: list[float] = field(default_factory=list)  # and until it is committed
    words: int = 0  # whose end is known
    shown: int = 0  # words that partials have shown
    changed: int = 0  # and that later changed
    chunks: list[float] = field(default_factory=list)  # compute time of each
    scored: list[Scored] = field(default_factory=list)


class Steps(NamedTuple):
    """What it costs to step live streams together, a chunk of each at a time."""

    sessions: int
    seconds: list[float]  # of each step
    peak_bytes: int  # of memory in use by the process, or on the GPU, up to then


def live(engine: Engine, waveform: Tensor) -> tuple[list[Shown], list[float]]:
    """Hear a recording as it is spoken: its events, and the compute time of each chunk."""
    session, clock, heard = engine.start(), 0.0, 0
    shown: list[Shown] = []
    costs: list[float] = []
    windows = waveform.split(WINDOW_SAMPLES)
    for i, window in enumerate(windows):
        started = time.perf_counter()
        (session,), (events,) = engine.step([session], [window], [i == len(windows) - 1])
        costs.append(time.perf_counter() - started)
        heard += len(window)
        clock = max(clock, heard / SAMPLE_RATE) + costs[-1]
        shown += [Shown(event, clock) for event in events]
    size = round(CHUNK_SECONDS * SAMPLE_RATE) // WINDOW_SAMPLES
    return shown, [sum(costs[i : i + size]) for i in range(0, len(costs), size)]


def delays(reference: Sequence[Word], shown: Sequence[Shown]) -> tuple[list[float], list[float]]:
    """From the end of each word to its first correct showing and to its commit, where there was one."""
    first: dict[int, float] = {}
    commit: dict[int, float] = {}
    for event, clock in shown:
        sure = event.committed if isinstance(event, Partial) else event.segment.words
        unsure = event.tentative if isinstance(event, Partial) else ()
        for words, found in ((sure, commit), ((*sure, *unsure), first)):
            for i, word in enumerate(reference):
                if i not in found and any(_same(word, other) for other in words):
                    found[i] = clock - word.end_seconds
    return list(first.values()), list(commit.values())


def _same(word: Word, other: Word) -> bool:
    return word.text == other.text and abs(word.end_seconds - other.end_seconds) <= NEAR_SECONDS


def flicker(events: Sequence[Event]) -> tuple[int, int]:
    """How many words partials have shown, and how many of these later gave way to another word or to none.

    A word is what stands at a place in its segment; it counts again when it comes back.
    """
    shown = changed = 0
    before: list[str] = []
    for event in events:
        words = event.text.split()
        differ = sum(a != b for a, b in zip(before, words, strict=False))
        changed += differ + max(0, len(before) - len(words))
        if isinstance(event, Partial):
            shown += differ + max(0, len(words) - len(before))
        before = words if isinstance(event, Partial) else []
    return shown, changed


def reference_words(recogniser: Recogniser, utterance: Utterance, waveform: Tensor) -> list[Word]:
    """The words of the reference with their times, by forced alignment over the whole recording's encoder output."""
    text = normalise(utterance.text or "") or ""
    tokens = recogniser.tokenizer.encode(text)
    with torch.inference_mode():
        samples = torch.tensor([len(waveform)], device=recogniser.device)
        encoded = recogniser.model.encode(waveform[None].to(recogniser.device), samples)
        spans = align(recogniser.model.ctc_log_probs(encoded.encoder_out)[0].cpu(), tokens)
    if spans is None:
        return []
    frame = recogniser.model.config.frame_seconds
    words = recogniser.tokenizer.words(tokens)
    return [Word(text, spans[first][0] * frame, spans[after - 1][1] * frame, 1.0) for text, first, after in words]


def measure(engine: Engine, name: str, clips: Sequence[tuple[Utterance, Tensor, list[Word]]]) -> Measured:
    """Let an engine hear all recordings, one after the other."""
    made = Measured(name)
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    live(engine, torch.cat([clips[0][1], pause]))  # to warm up
    for utterance, waveform, reference in clips:
        shown, chunks = live(engine, torch.cat([waveform, pause]))
        events = [event for event, _ in shown]
        to_partial, to_commit = delays(reference, shown)
        words, changed = flicker(events)
        made.to_partial += to_partial
        made.to_commit += to_commit
        made.words += len(reference)
        made.shown += words
        made.changed += changed
        made.chunks += chunks
        made.scored.append(_scored(utterance, " ".join(e.text for e in events if isinstance(e, Final))))
    return made


def whole(recogniser: Recogniser, clips: Sequence[tuple[Utterance, Tensor, list[Word]]]) -> list[Scored]:
    """The same recordings as files."""
    texts = (recogniser.transcribe(w, sample_rate=SAMPLE_RATE, word_timestamps=False).text for _, w, _ in clips)
    return [_scored(utterance, text) for (utterance, _, _), text in zip(clips, texts, strict=True)]


def step_together(engine: Engine, waveforms: Sequence[Tensor], sessions: int, seconds: float) -> Steps:
    """Step many live streams, each at another place in the recordings; the first quarter is not counted, to warm up."""
    size, total = round(CHUNK_SECONDS * SAMPLE_RATE), sum(map(len, waveforms))
    endless = torch.cat([*waveforms, *waveforms])
    length = min(total, round(seconds * SAMPLE_RATE))
    starts = [i * total // sessions for i in range(sessions)]
    now = [engine.start() for _ in starts]
    costs = []
    for at in range(0, length - size + 1, size):
        chunks = [endless[start + at : start + at + size] for start in starts]
        started = time.perf_counter()
        now, _ = engine.step(now, chunks)
        costs.append(time.perf_counter() - started)
    if engine.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(engine.device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Steps(sessions, costs[len(costs) // 4 :], peak)


def quantiles(seconds: Sequence[float], *percents: float) -> list[float]:
    return [float(q) for q in np.percentile(seconds, percents)] if seconds else [float("nan")] * len(percents)


def wer(scored: Sequence[Scored]) -> float:
    return metrics.summarise(scored)[-1].words.rate


def table(measured: Sequence[Measured], files: Sequence[Scored], steps: Sequence[Steps]) -> Table:
    """A column for each policy, and below what many streams at once cost with the first of them."""
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
        ("words of partials that later change %", lambda m: f"{100 * m.changed / max(1, m.shown):.1f}"),
        ("compute for a chunk, median / p95 / p99 ms", lambda m: _ms(m.chunks, 50, 95, 99)),
        ("WER %, stream", lambda m: f"{100 * wer(m.scored):.1f}"),
        ("WER %, whole file", lambda m: f"{100 * file_rate:.1f}"),
        ("WER, stream / whole file", lambda m: f"{wer(m.scored) / file_rate:.3f}" if file_rate else "–"),
    ]
    for name, value in rows:
        made.add_row(name, *(value(one) for one in measured))
    for step in steps:
        name = f"a step of {step.sessions} streams, p50 / p95 / p99 ms; peak MiB"
        made.add_row(name, f"{_ms(step.seconds, 50, 95, 99)}; {step.peak_bytes / 2**20:.0f}")
    return made


def _ms(seconds: Sequence[float], *percents: float) -> str:
    return " / ".join(f"{1000 * q:.0f}" for q in quantiles(seconds, *percents))


def _share(found: Sequence[float], measured: Measured) -> str:
    return f"{100 * len(found) / max(1, measured.words):.0f}"


def to_json(
    measured: Sequence[Measured], files: Sequence[Scored], steps: Sequence[Steps], facts: dict[str, str]
) -> dict[str, Any]:
    """Plain values for `json.dumps`; times in seconds, null where there is none to tell."""

    def times(seconds: Sequence[float]) -> dict[str, float | None]:
        names = ("median", "p95", "p99")
        return dict(zip(names, quantiles(seconds, 50, 95, 99) if seconds else [None] * 3, strict=True))

    return {
        "origin": facts,
        "whole_file_wer": wer(files),
        "policies": [
            {
                "name": m.name,
                "words": m.words,
                "words_shown": len(m.to_partial),
                "words_committed": len(m.to_commit),
                "to_partial_seconds": times(m.to_partial),
                "to_commit_seconds": times(m.to_commit),
                "partial_words_changed": m.changed / max(1, m.shown),
                "chunk_compute_seconds": times(m.chunks),
                "wer": wer(m.scored),
            }
            for m in measured
        ],
        "sessions": [
            {"sessions": s.sessions, "step_seconds": times(s.seconds), "peak_bytes": s.peak_bytes} for s in steps
        ],
    }


def figure(measured: Sequence[Measured], steps: Sequence[Steps]) -> Figure:
    """How many words have come after how long, and how a step's time grows with the streams."""
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


def origin(recogniser: Recogniser, engine: Engine, arguments: Sequence[str]) -> dict[str, str]:
    """What produced the numbers."""
    cuda = recogniser.device.type == "cuda"
    return {
        "command": shlex.join(["python", "-m", "recipes.benchmark.streaming", *arguments]),
        "commit": whole_file._commit() or "unknown",
        "model": str(recogniser.folder),
        "weights sha256": hashlib.sha256((recogniser.folder / "model.safetensors").read_bytes()).hexdigest(),
        "context": f"{engine.context}; latency of the encoder {engine.latency_ms:.0f} ms",
        "processor": torch.cuda.get_device_name(recogniser.device) if cuda else whole_file._processor(),
        "versions": f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.python_version()}",
    }


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        measured, files, steps, facts = _benchmark(options, arguments)
    except SpellstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figure(measured, steps).savefig(options.plot, dpi=120)
    if options.json:
        print(json.dumps(to_json(measured, files, steps, facts), indent=2))
        return 0
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(measured, files, steps))
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.streaming", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--manifest", type=Path, default=Path("dev.jsonl"), help="utterances with audio and text, as JSON lines")
    add("--limit", type=int, help="measure only so many, spread evenly over the manifest")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--device", default="cpu", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="of the CPU")
    add("--policy", choices=POLICIES, default=PolicyConfig().kind, help="when a word is committed")
    add("--compare-policies", action="store_true", help="measure all of them")
    add("--margin-ms", type=int, default=PolicyConfig().margin_ms, help="a word's distance from the edge")
    add("--chunk-ms", type=int, help="the encoder's chunk; the model's own if left out")
    add("--lookahead-ms", type=int, help="how far it looks beyond; the model's own if left out")
    add("--sessions", type=int, nargs="*", help="live streams at once (1 4 16; with CUDA 1 64 512 2048)")
    add("--session-seconds", type=float, default=40.0, help="how long to step them")
    add("--json", action="store_true", help="print JSON in place of the table")
    add("--plot", type=Path, default=Path("streaming.png"), help="where to save the plot")
    return parser


def _benchmark(
    options: argparse.Namespace, arguments: Sequence[str]
) -> tuple[list[Measured], list[Scored], list[Steps], dict[str, str]]:
    import asr
    from asr import audio

    torch.set_num_threads(options.threads)
    chosen = whole_file.pick(read(options.manifest), options.limit)
    recogniser = asr.load(options.model, device=options.device)
    own = recogniser.model.config.streaming
    given = {"chunk_ms": options.chunk_ms, "lookahead_ms": options.lookahead_ms}
    context: Context = replace(own, **{name: value for name, value in given.items() if value is not None})
    kinds = list(POLICIES if options.compare_policies else ())
    kinds = [options.policy, *(kind for kind in kinds if kind != options.policy)]
    configs = [StreamConfig(context=context, policy=PolicyConfig(kind, options.margin_ms)) for kind in kinds]
    engines = [Engine(recogniser, config) for config in configs]
    loaded = ((utterance, audio.load(utterance.audio)) for utterance in chosen)
    clips = [(u, waveform, reference_words(recogniser, u, waveform)) for u, waveform in loaded]
    measured = []
    for kind, engine in zip(kinds, engines, strict=True):
        measured.append(measure(engine, kind, clips))
        print(f"{kind}: {len(clips)} recordings", file=sys.stderr)
    counts = options.sessions or ([1, 64, 512, 2048] if recogniser.device.type == "cuda" else [1, 4, 16])
    waveforms = [waveform for _, waveform, _ in clips]
    steps = [step_together(engines[0], waveforms, count, options.session_seconds) for count in counts]
    return measured, whole(recogniser, clips), steps, origin(recogniser, engines[0], arguments)


def _scored(utterance: Utterance, text: str) -> Scored:
    reference, hypothesis = (normalise(t) or t for t in (utterance.text or "", text))
    return metrics.score(utterance.id, utterance.corpus, reference, hypothesis, utterance.duration_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
