"""F1 of marks and capitals on held-out text, and on recognised recordings with a written reference.

    python -m recipes.punctuation.evaluate text MODEL FILE...
    python -m recipes.punctuation.evaluate speech MODEL MANIFEST

Text: a paragraph a line. Its words are lower-cased, its numbers spelled out and its marks removed; each line is one
finished segment without pauses. Manifest: JSON lines with `audio` (relative to the manifest) and `written`. MODEL is a
folder with punctuation.safetensors. A Markdown table goes to standard output.

The baseline ignores the words: a full stop at the end, capitals at the beginning and for "I". If the package `truecase`
is installed, it is measured as a peer for capitals.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from asr import checkpoint
from asr.errors import DataError
from asr.text.marks import SCORED_MARKS, WrittenScore, score_written
from asr.training.punctuation.reading import Target, read_line
from asr.transcript import Segment
from asr.writing.parts import CONTEXT_WORDS, PARTIAL_CONTEXT_WORDS, SENTENCE_ENDS, Tag, Tagger, Utterance

Row = tuple[str, WrittenScore]
_LINES = 400  # of each text, at most


class Baseline:
    """A full stop at the end; "I" and its contractions have a capital."""

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        """See `asr.writing.parts.Tagger`."""
        return [
            [
                Tag(word.capitalize() if word.split("'")[0] == "i" else word, "." if i + 1 == len(one.words) else "")
                for i, word in enumerate(one.words)
            ]
            for one in utterances
        ]


class Truecase:
    """Capitals by the package `truecase`, n-grams of words; the marks of the baseline."""

    def __init__(self) -> None:
        from truecase.TrueCaser import TrueCaser  # type: ignore[import-not-found]

        self.caser = TrueCaser()

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        """See `asr.writing.parts.Tagger`."""
        return [
            [Tag(text, mark) for text, (_, mark) in zip(self._written(one), tags, strict=True)]
            for one, tags in zip(utterances, Baseline().tag(utterances), strict=True)
        ]

    def _written(self, utterance: Utterance) -> list[str]:
        found: list[str] = self.caser.get_true_case_from_tokens(list(utterance.words))
        return found


def join(tags: Iterable[Tag]) -> str:
    """Tagged words as text, with a capital after each end of a sentence."""
    words, first = [], True
    for text, mark in tags:
        words.append((text[:1].upper() + text[1:] if first else text) + mark)
        first = mark in SENTENCE_ENDS
    return " ".join(words)


def of_text(tagger: Tagger, path: Path) -> WrittenScore:
    """Score the tags of a text's lines."""
    with path.open(encoding="utf-8") as file:
        lines = [targets for line in file if (targets := read_line(line))][:_LINES]
    spoken = [Utterance([target.word for target in line], [None] * len(line)) for line in lines]
    scores = map(_score, lines, tagger.tag(spoken))
    return sum(scores, WrittenScore())


def _score(line: Sequence[Target], tags: Sequence[Tag]) -> WrittenScore:
    """`score_written` for a line."""
    return score_written(" ".join(target.written + target.mark for target in line), join(tags))


def of_speech(tagger: Tagger, recordings: Sequence[tuple[Sequence[Segment], str]], pauses: bool) -> WrittenScore:
    """Score the tags of recognised segments against a written text for each recording."""
    total = WrittenScore()
    for segments, written in recordings:
        tags: list[Tag] = []
        before: list[str] = []
        for segment in segments:
            words = segment.words
            gaps = [max(0.0, b.start_seconds - a.end_seconds) for a, b in pairwise(words)]
            known: list[float | None] = [*gaps, None] if pauses else [None] * len(words)
            spoken = [word.text for word in words]
            tags += tagger.tag([Utterance(spoken, known[: len(words)], before[-CONTEXT_WORDS:])])[0]
            before += spoken
        total += score_written(written, join(tags))
    return total


def table(rows: Iterable[Row], mean: bool = False) -> str:
    """A Markdown table of F1 in per cent; with `mean`, a last row of the means."""
    names = {",": "comma", ".": "full stop", "?": "question", "!": "exclamation", ":": "colon"}
    lines = [
        f"| | {' | '.join(names[mark] for mark in SCORED_MARKS)} | capitals |",
        f"|---|{'---|' * (len(SCORED_MARKS) + 1)}",
    ]
    found: list[list[float | None]] = []
    for name, score in rows:
        cells = [*(score.marks[mark] for mark in SCORED_MARKS), score.capitals]
        found.append([100 * cell.f1 if cell.right + cell.missed else None for cell in cells])
        lines.append(_row(name, found[-1]))
    if mean:
        columns = ([each for each in column if each is not None] for column in zip(*found, strict=True))
        lines.append(_row("mean", [statistics.mean(column) if column else None for column in columns]))
    return "\n".join(lines)


def _row(name: str, cells: Iterable[float | None]) -> str:
    return f"| {name} | {' | '.join('–' if cell is None else f'{cell:.1f}' for cell in cells)} |"


def timed(tagger: Tagger) -> str:
    """CPU time per word: of finished segments in a batch, as in files, and of one partial, as in a stream."""
    words = ["so", "i", "think", "that", "we", "should", "go", "to", "paris", "in", "the", "spring"]
    pauses, before = [0.1] * len(words), words * 4

    def cost(utterances: list[Utterance]) -> float:
        tagger.tag(utterances)
        began = time.process_time()
        for _ in range(10):
            tagger.tag(utterances)
        return 100 * (time.process_time() - began) / (len(utterances) * len(words))

    finals = cost([Utterance(words, pauses, before[-CONTEXT_WORDS:])] * 64)
    partial = cost([Utterance(words, pauses, before[-PARTIAL_CONTEXT_WORDS:], final=False)])
    return f"CPU for a word: {finals:.3f} ms in a batch, {partial:.2f} ms in a stream"


def main() -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    if len(sys.argv) < 4 or sys.argv[1] not in ("text", "speech"):
        raise SystemExit(__doc__)
    kind, model, *paths = sys.argv[1:]
    tagger = checkpoint.load_punctuation(Path(model))
    if kind == "text":
        for name, each in _compared(tagger):
            print(f"{name}:\n\n{table(((Path(p).stem, of_text(each, Path(p))) for p in paths), mean=True)}\n")
        print(timed(tagger))
        return
    recordings = list(recognised(Path(paths[0])))
    rows = [(f"with pauses, {name}", of_speech(each, recordings, True)) for name, each in _compared(tagger)]
    print(table([*rows, ("without pauses", of_speech(tagger, recordings, False))]))


def _compared(tagger: Tagger) -> list[tuple[str, Tagger]]:
    peers: list[tuple[str, Tagger]] = [("truecase", Truecase())] if importlib.util.find_spec("truecase") else []
    return [("the model", tagger), ("baseline", Baseline()), *peers]


def recognised(manifest: Path) -> Iterator[tuple[Sequence[Segment], str]]:
    """The recognised segments of each recording, and its written text; for a manifest see the module's docstring.

    Raises:
        AudioError: a recording cannot be read.
    """
    import asr

    with manifest.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    written = {str(manifest.parent / row["audio"]): row["written"] for row in rows}
    for source, transcript, error in asr.load("default").transcribe_many(written, style="spoken"):
        if transcript is None:
            raise error or DataError(f"{source}: no transcript")
        yield transcript.segments, written[source]


if __name__ == "__main__":
    main()
