"""Live streams: latency of words, changes of partials, compute per chunk, and streams per machine.

    python -m recipes.benchmark.streaming --manifest dev.jsonl

Recordings are fed as from a microphone, but as fast as possible; computing time is added on the stream's clock.
README.md beside this file describes the measurements.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from asr.archive.manifest import Utterance, read
from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES
from asr.config import Context
from asr.errors import DataError
from asr.search.alignment import align
from asr.text import metrics
from asr.text.metrics import Scored
from asr.text.normalise import normalise
from asr.transcript import Word
from recipes.benchmark import growing_buffer
from recipes.benchmark.growing_buffer import whisper
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.streaming_report import CHUNK_SECONDS, Measured, Memory, Steps, figure, table, to_json
from recipes.benchmark.whole_file import pick
from streaming.engine import Engine, StreamConfig
from streaming.events import Event, Final, Partial
from streaming.policy import PolicyConfig

if TYPE_CHECKING:
    from asr.recogniser import Recogniser

__all__ = ["Shown", "add", "delays", "flicker", "hear_long", "live"]

TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
POLICIES = ("ctc", "attention", "agreement")
PAUSE_SECONDS = 1.5  # silence after each recording, as when a speaker stops
NEAR_SECONDS = 0.5  # largest distance of ends between a shown word and its match in the reference


class Shown(NamedTuple):
    """An event and its time."""

    event: Event
    clock_seconds: float


def live(engine: Engine, waveform: Tensor, timer: Callable[[], float] | None = None) -> tuple[list[Shown], list[float]]:
    """Run a recording as a live stream; returns its events, and the compute time of each chunk by the timer."""
    timer = timer or time.perf_counter
    session, clock, heard = engine.start(), 0.0, 0
    shown: list[Shown] = []
    costs: list[float] = []
    windows = waveform.split(WINDOW_SAMPLES)
    for i, window in enumerate(windows):
        started = timer()
        (session,), (events,) = engine.step([session], [window], [i == len(windows) - 1])
        costs.append(timer() - started)
        heard += len(window)
        clock = max(clock, heard / SAMPLE_RATE) + costs[-1]
        shown += [Shown(event, clock) for event in events]
    size = round(CHUNK_SECONDS * SAMPLE_RATE) // WINDOW_SAMPLES
    return shown, [sum(costs[i : i + size]) for i in range(0, len(costs), size)]


def delays(reference: Sequence[Word], shown: Sequence[Shown]) -> tuple[list[float], list[float]]:
    """Delays from the end of each word to its first correct partial and to its commit, if any."""
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
    """Number of words shown in partials, and how many were later changed or removed.

    A word is identified by its position in its segment; it counts again when it reappears.
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
    """Words of the reference with their times, by forced alignment to the whole recording's encoder output."""
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


def measure(
    engine: Engine,
    name: str,
    clips: Sequence[tuple[Utterance, Tensor, list[Word]]],
    timer: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Run all recordings through an engine, one after the other."""
    return measure_by(partial(live, engine, timer=timer), name, clips)


def measure_by(
    hear: Callable[[Tensor], tuple[list[Shown], list[float]]],
    name: str,
    clips: Sequence[tuple[Utterance, Tensor, list[Word]]],
) -> Measured:
    """Run all recordings as live streams, one after the other; `hear` returns the same as `live`."""
    made = Measured(name)
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    hear(torch.cat([clips[0][1], pause]))  # to warm up
    for utterance, waveform, reference in clips:
        heard = torch.cat([waveform, pause])
        shown, chunks = hear(heard)
        add(made, utterance, reference, shown)
        made.chunks += chunks
        made.audio_seconds += len(heard) / SAMPLE_RATE
    return made


def add(measured: Measured, utterance: Utterance, reference: Sequence[Word], shown: Sequence[Shown]) -> None:
    """Add the delays, changed words and errors of a recording."""
    to_partial, to_commit = delays(reference, shown)
    words, changed = flicker([event for event, _ in shown])
    measured.to_partial += to_partial
    measured.to_commit += to_commit
    measured.words += len(reference)
    measured.shown += words
    measured.changed += changed
    measured.scored.append(score(utterance, " ".join(event.text for event, _ in shown if isinstance(event, Final))))


def peer(
    name: str, clips: Sequence[tuple[Utterance, Tensor, list[Word]]], timer: Callable[[], float] = time.perf_counter
) -> Measured:
    """Measure the peer `faster-whisper:DIR` as a streaming server runs it.

    Raises:
        DataError: no such peer, or no model in DIR.
        DependencyError: its package is not installed.
    """
    kind, _, folder = name.partition(":")
    if kind != "faster-whisper" or not folder:
        raise DataError(f"{name}: no such peer of live streams; expected faster-whisper:DIR")
    recognise = whisper(Path(folder))

    def hear(waveform: Tensor) -> tuple[list[Shown], list[float]]:
        shown, costs = growing_buffer.hear(recognise, waveform, timer)
        return [Shown(*one) for one in shown], costs

    return measure_by(hear, f"Whisper {Path(folder).resolve().name}", clips)


def whole(recogniser: Recogniser, clips: Sequence[tuple[Utterance, Tensor, list[Word]]]) -> list[Scored]:
    """Transcribe the same recordings as whole files."""
    found = (
        recogniser.transcribe(w, sample_rate=SAMPLE_RATE, word_timestamps=False, style="spoken") for _, w, _ in clips
    )
    texts = (transcript.text for transcript in found)
    return [score(utterance, text) for (utterance, _, _), text in zip(clips, texts, strict=True)]


def step_together(engine: Engine, waveforms: Sequence[Tensor], sessions: int, seconds: float) -> Steps:
    """Step many live streams, each at another position in the recordings; the first quarter is warm-up."""
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
    cuda = engine.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(engine.device) if cuda else _peak_bytes()
    return Steps(sessions, costs[len(costs) // 4 :], peak)


def hear_long(engine: Engine, waveforms: Sequence[Tensor], seconds: float) -> Memory:
    """Run the recordings in a loop, with pauses, as one long stream."""
    pause = torch.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    session, heard, held = engine.start(), 0, list[tuple[int, int]]()
    for waveform in cycle(waveforms):
        for chunk in torch.cat([waveform, pause]).split(round(CHUNK_SECONDS * SAMPLE_RATE)):
            (session,), _ = engine.step([session], [chunk])
            heard += len(chunk)
            held.append((heard, _memory_bytes(engine)))
        if heard >= seconds * SAMPLE_RATE:
            break
    tenth = next(size for at, size in held if at >= heard / 10)
    return Memory(heard / SAMPLE_RATE, tenth, max(size for _, size in held), held[-1][1])


def _memory_bytes(engine: Engine) -> int:
    """Memory in use on the GPU, or by this process (its peak if the system reports nothing else)."""
    if engine.device.type == "cuda":
        return torch.cuda.memory_allocated(engine.device)
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parser().parse_args(arguments)

    def benchmark() -> Report:
        measured, files, steps, memory, facts = _benchmark(options, arguments)
        figure(measured, steps).savefig(options.plot, dpi=120)
        found = measured, files, steps, memory
        return Report(to_json(*found, facts), table(*found), facts)

    return report(benchmark, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.streaming", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--manifest", type=Path, default=Path("dev.jsonl"), help="utterances with audio and text, as JSON lines")
    add("--limit", type=int, help="measure only N recordings, spread evenly over the manifest")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--device", default="cpu", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="of the CPU")
    add("--policy", choices=POLICIES, default=PolicyConfig().kind, help="when a word is committed")
    add("--compare-policies", action="store_true", help="measure all of them")
    add("--margin-ms", type=int, default=PolicyConfig().margin_ms, help="a word's distance from the edge")
    add("--chunk-ms", type=int, help="the encoder's chunk; the model's own if left out")
    add("--lookahead-ms", type=int, help="the encoder's lookahead; the model's own if left out")
    add("--overlap-ms", type=int, default=StreamConfig().overlap_ms, help="audio before a chunk that is encoded again")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="NAME",
        help="faster-whisper:DIR, run as its servers do; repeatable",
    )
    add("--clock", choices=[*TIMERS], default="wall", help="cpu: as if nothing else ran on the machine")
    add("--sessions", type=int, nargs="*", help="live streams at once (1 4 16; with CUDA 1 64 512 2048)")
    add("--session-seconds", type=float, default=40.0, help="seconds of audio in each")
    add("--memory-minutes", type=float, default=60.0, help="length of the stream that memory is measured over; 0: none")
    add("--json", action="store_true", help="print JSON in place of the table")
    add("--plot", type=Path, default=Path("streaming.png"), help="where to save the plot")
    return parser


def _benchmark(
    options: argparse.Namespace, arguments: Sequence[str]
) -> tuple[list[Measured], list[Scored], list[Steps], Memory | None, dict[str, str]]:
    import asr
    from asr import audio

    torch.set_num_threads(options.threads)
    chosen = pick(read(options.manifest), options.limit)
    recogniser = asr.load(options.model, device=options.device)
    own = recogniser.model.config.streaming
    given = {"chunk_ms": options.chunk_ms, "lookahead_ms": options.lookahead_ms}
    context: Context = replace(own, **{name: value for name, value in given.items() if value is not None})
    kinds = list(POLICIES if options.compare_policies else ())
    kinds = [options.policy, *(kind for kind in kinds if kind != options.policy)]
    configs = [
        StreamConfig(
            context=context,
            policy=PolicyConfig(kind, options.margin_ms),
            overlap_ms=options.overlap_ms,
            style="spoken",
        )
        for kind in kinds
    ]
    engines = [Engine(recogniser, config) for config in configs]
    loaded = ((utterance, audio.load(utterance.audio)) for utterance in chosen)
    clips = [(u, waveform, reference_words(recogniser, u, waveform)) for u, waveform in loaded]
    measured, timer = [], TIMERS[options.clock]
    for kind, engine in zip(kinds, engines, strict=True):
        measured.append(measure(engine, kind, clips, timer))
        print(f"{kind}: {len(clips)} recordings", file=sys.stderr)
    measured += [peer(name, clips, timer) for name in options.peer]
    counts = options.sessions or ([1, 64, 512, 2048] if recogniser.device.type == "cuda" else [1, 4, 16])
    waveforms = [waveform for _, waveform, _ in clips]
    steps = [step_together(engines[0], waveforms, count, options.session_seconds) for count in counts]
    minutes = options.memory_minutes
    memory = hear_long(engines[0], waveforms, 60 * minutes) if minutes > 0 else None
    facts = {
        **origin("streaming", arguments, recogniser.device),
        **weights(recogniser.folder),
        "context": f"{engines[0].encoder.context}; latency of the encoder {engines[0].encoder.latency_ms:.0f} ms",
        "versions": f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.python_version()}",
    }
    return measured, whole(recogniser, clips), steps, memory, facts


def score(utterance: Utterance, text: str) -> Scored:
    reference, hypothesis = (normalise(t) or t for t in (utterance.text or "", text))
    return metrics.score(utterance.id, utterance.corpus, reference, hypothesis, utterance.duration_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
