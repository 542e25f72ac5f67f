"""Hotwords: recall of rare words with a list, and its cost in errors of other words, false alarms and CPU time.

    python -m recipes.benchmark.hotwords --manifest dev.jsonl --text train.txt --limit 60 --kinds files

Recordings are recognised in groups of 16. The list of a group holds the rare words of its references, those outside the
most frequent of the training text, and distractors: rare words of that text. All lists are measured together, a step of
each in turn, so that other load on the machine affects all equally. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from asr.archive.manifest import Utterance, read
from asr.audio import SAMPLE_RATE
from asr.errors import DataError
from asr.steps import Steps, finish
from asr.text.normalise import fold
from asr.writing.hotwords import Hotwords
from recipes.benchmark.origin import Report, origin, report, weights
from recipes.benchmark.whole_file import pick
from streaming.engine import Engine, StreamConfig
from streaming.events import Final

if TYPE_CHECKING:
    from rich.table import Table

    from asr.config import SearchConfig
    from asr.recogniser import Recogniser

__all__ = ["Counts", "compare", "frequencies", "in_turn"]

T = TypeVar("T")
GROUP = 16
STEP_SECONDS = 0.6


@dataclass
class Counts:
    """Errors of one setting, separate for rare and other words."""

    name: str
    rare: int = 0  # in the references
    found: int = 0  # of them
    others: int = 0  # words of the references that are not rare
    errors: int = 0  # of other words: not recognised, or inserted
    false_alarms: int = 0  # words of the list that were not said
    seconds: float = 0.0  # of audio
    cpu_seconds: float = 0.0
    list_seconds: float = 0.0  # CPU time for making its lists, done once and not included in cpu_seconds
    lists: int = 0

    @property
    def recall(self) -> float:
        return self.found / max(1, self.rare)

    @property
    def other_rate(self) -> float:
        """Errors of other words per other word."""
        return self.errors / max(1, self.others)


def frequencies(paths: Sequence[Path]) -> Counter[str]:
    """Counts of words in texts (a sentence or paragraph per line) or manifests (.jsonl)."""
    counts: Counter[str] = Counter()
    for path in paths:
        if path.suffix == ".jsonl":
            counts.update(word for one in read(path) for word in fold(one.text or "").split())
        else:
            with path.open(encoding="utf-8") as lines:
                counts.update(word for line in lines for word in re.findall(r"[a-z']+", line.lower().replace("’", "'")))
    return counts


def compare(counts: Counts, reference: str, hypothesis: str, rare: set[str], listed: set[str]) -> None:
    """Count the words of an utterance; an alignment shows which words of the reference were recognised."""
    said, heard = reference.split(), hypothesis.split()
    right, matched = [False] * len(said), [False] * len(heard)
    for block in SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            right[block.a + i] = matched[block.b + i] = True
    extra = max(0, sum(not m for m in matched) - sum(not r for r in right))
    for word, recognised in zip(said, right, strict=True):
        counts.rare += word in rare
        counts.found += word in rare and recognised
        counts.others += word not in rare
        counts.errors += word not in rare and not recognised
    counts.errors += extra
    counts.false_alarms += sum(word in listed and not m for word, m in zip(heard, matched, strict=True))


def choose(utterances: Sequence[Utterance], common: set[str], limit: int | None) -> list[Utterance]:
    """All utterances, or `limit` of those with rare words and `limit` others."""
    found = pick(utterances, None)
    if limit is None:
        return found
    rare = [bool(set(fold(one.text or "").split()) - common) for one in found]
    halves = ([one for one, has in zip(found, rare, strict=True) if has == which] for which in (True, False))
    chosen = {one.id for half in halves if half for one in pick(half, limit)}
    return [one for one in found if one.id in chosen]


def files(
    recogniser: Recogniser, waveforms: Sequence[Tensor], hotwords: Hotwords | None, search: SearchConfig
) -> Steps[list[str]]:
    """Texts of whole recordings."""
    segments = yield from recogniser.decode_steps(waveforms, search, False, hotwords)
    return [segment.text for segment in segments]


def streams(engine: Engine, waveforms: Sequence[Tensor], hotwords: Hotwords | None) -> Steps[list[str]]:
    """Texts of the recordings as streams, stepped together."""
    sessions = [engine.start(hotwords) for _ in waveforms]
    size, texts = round(STEP_SECONDS * SAMPLE_RATE), [""] * len(waveforms)
    longest = max(map(len, waveforms))
    for start in range(0, longest, size):
        last = start + size >= longest
        sessions, events = engine.step(sessions, [w[start : start + size] for w in waveforms], [last] * len(waveforms))
        for row, some in enumerate(events):
            for event in some:
                if isinstance(event, Final):
                    texts[row] = f"{texts[row]} {event.text}".strip()
        yield
    return texts


def in_turn(runs: Sequence[Steps[T]]) -> list[tuple[T, float]]:
    """The result and the CPU seconds of each run, advanced a step at a time in turn."""
    results: dict[int, T] = {}
    seconds = [0.0] * len(runs)
    while len(results) < len(runs):
        for i, run in enumerate(runs):
            if i in results:
                continue
            started = time.process_time()
            try:
                next(run)
            except StopIteration as end:
                results[i] = end.value
            seconds[i] += time.process_time() - started
    return [(results[i], seconds[i]) for i in range(len(runs))]


def measure(
    recogniser: Recogniser,
    clips: Sequence[tuple[Utterance, Tensor]],
    rare: set[str],
    distractors: Sequence[str],
    sizes: Sequence[int],
    search: SearchConfig,
    kinds: Sequence[str],
) -> list[Counts]:
    """Recognise all recordings without a list and with lists of each size, group by group."""
    final = None if search == recogniser.model.config.search else search  # as `spellstream serve` does
    engine = Engine(recogniser, StreamConfig(final=final, style="spoken"))
    names = ["no list", *(f"{size} distractors" for size in sizes)]
    counts = {kind: [Counts(f"{kind}, {name}") for name in names] for kind in kinds}
    groups = [clips[start : start + GROUP] for start in range(0, len(clips), GROUP)]
    for number, group in enumerate(groups):
        references, waveforms = [fold(one.text or "") for one, _ in group], [waveform for _, waveform in group]
        said = {word for reference in references for word in reference.split()}
        lists = [
            sorted((said & rare) | (set(random.Random(number).sample(distractors, min(size, len(distractors)))) - said))
            for size in (0, *sizes)
        ]
        for kind in kinds:
            runs = []
            for one, listed, size in zip(counts[kind], lists, (0, *sizes), strict=True):
                started = time.process_time()
                hotwords = Hotwords.of(listed) if size else None
                recogniser.spell(hotwords)
                one.list_seconds, one.lists = one.list_seconds + time.process_time() - started, one.lists + 1
                whole = kind == "files"
                run = files(recogniser, waveforms, hotwords, search) if whole else streams(engine, waveforms, hotwords)
                runs.append(run)
            for one, listed, (texts, cpu_seconds) in zip(counts[kind], lists, in_turn(runs), strict=True):
                one.cpu_seconds += cpu_seconds
                one.seconds += sum(map(len, waveforms)) / SAMPLE_RATE
                for reference, text in zip(references, texts, strict=True):
                    compare(one, reference, fold(text), rare, set(listed))
        print(f"{number + 1} of {len(groups)} groups", file=sys.stderr)
    return [one for kind in kinds for one in counts[kind]]


def table(measured: Sequence[Counts]) -> Table:
    """A row per setting; CPU time also relative to that without a list."""
    from rich.table import Table

    made = Table(
        "", "rare words found", "errors of other words", "false alarms per hour", "CPU s per s", "CPU", "CPU s per list"
    )
    plain = {one.name.partition(",")[0]: one for one in measured if one.name.endswith("no list")}
    for one in measured:
        base = plain[one.name.partition(",")[0]]
        made.add_row(
            one.name,
            f"{one.found} of {one.rare} ({one.recall:.1%})",
            f"{one.other_rate:.2%}",
            f"{one.false_alarms / one.seconds * 3600:.0f}",
            f"{one.cpu_seconds / one.seconds:.3f}",
            f"{one.cpu_seconds / base.cpu_seconds:.2f} ×",
            f"{one.list_seconds / one.lists:.3f}",
        )
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parser().parse_args(arguments)
    return report(lambda: _benchmark(options, arguments), options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.hotwords", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--manifest", type=Path, default=Path("dev.jsonl"), help="utterances with audio and text, as JSON lines")
    add("--text", type=Path, nargs="+", required=True, help="training text: text files or manifests")
    add("--limit", type=int, help="measure N recordings with rare words and N without, spread evenly")
    add("--common", type=int, default=5000, help="most frequent words of the training text, which are not rare")
    add("--distractors", type=int, nargs="+", default=[100, 1000], help="sizes of the lists")
    add("--kinds", nargs="+", choices=["files", "streams"], default=["files", "streams"], help="what to measure")
    add("--hotword-weight", type=float, help="bonus of each letter; the model's own if left out")
    add("--hotword-margin", type=float, help="how unlikely CTC may find a hotword; the model's own if left out")
    add("--model", default="default", help="a shipped model's name or a checkpoint folder")
    add("--device", default="cpu", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="of the CPU")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def _benchmark(options: argparse.Namespace, arguments: Sequence[str]) -> Report:
    import asr
    from asr import audio

    torch.set_num_threads(options.threads)
    counted = frequencies(options.text)
    common = {word for word, _ in counted.most_common(options.common)}
    # Only words spelled as they are normalised: "hath" and the like would stand for common words.
    distractors = sorted(w for w, n in counted.items() if w not in common and n >= 3 and len(w) > 3 and fold(w) == w)
    if len(distractors) < (most := max(options.distractors)):
        raise DataError(f"--text has {len(distractors)} rare words for lists of {most}: add text, or set --distractors")
    recogniser = asr.load(options.model, device=options.device)
    clips = [(one, audio.load(one.audio)) for one in choose(read(options.manifest), common, options.limit)]
    rare = {word for one, _ in clips for word in fold(one.text or "").split()} - common
    given = {name: getattr(options, name) for name in ("hotword_weight", "hotword_margin")}
    search = replace(recogniser.model.config.search, **{k: v for k, v in given.items() if v is not None})
    finish(files(recogniser, [clips[0][1]], None, search))  # to warm up
    measured = measure(recogniser, clips, rare, distractors, options.distractors, search, options.kinds)
    facts = {
        **origin("hotwords", arguments, recogniser.device),
        **weights(recogniser.folder),
        **{f"search.{name}": str(getattr(search, name)) for name in given},
    }
    return Report({"measured": [vars(one) for one in measured], **facts}, table(measured), facts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
