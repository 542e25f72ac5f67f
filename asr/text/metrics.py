"""Word and character error rates, with the uncertainty of a finite test set and the errors behind the number.

Texts are compared as they are given, but for runs of white space: normalise case and punctuation before scoring.
Every rate is a fraction (0.05 is 5 %). Characters are counted with the spaces between words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Confusion",
    "ErrorCounts",
    "Scored",
    "Summary",
    "align_text",
    "confusions",
    "score",
    "summarise",
    "table",
    "to_json",
    "worst",
]

RESAMPLES = 1000
# Resampling works through blocks of about this many draws, so that its memory does not grow with the test set.
BLOCK_DRAWS = 1_000_000

ErrorKind = Literal["substitution", "deletion", "insertion"]


@dataclass(frozen=True)
class ErrorCounts:
    """The edits that turn references into hypotheses, in words or in characters; adding counts pools them."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """All edits together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors for each unit of the reference. An empty reference counts as one unit, to keep the rate finite."""
        return self.errors / max(self.reference_length, 1)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


@dataclass(frozen=True)
class Scored:
    """One utterance, scored."""

    id: str
    corpus: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    duration_seconds: float


@dataclass(frozen=True)
class Summary:
    """Many utterances pooled: errors are added up before they are divided, so long utterances weigh more.

    `wer_interval` is the 95 % interval (low, high) of the word error rate when the utterances are drawn anew.
    """

    name: str
    utterances: int
    seconds: float
    words: ErrorCounts
    characters: ErrorCounts
    wer_interval: tuple[float, float]


class Confusion(NamedTuple):
    """A word error and how often it was made; the side that has no word is empty."""

    kind: ErrorKind
    reference: str
    hypothesis: str
    occurrences: int


def score(
    id: str,  # noqa: A002 - as in manifests
    corpus: str,
    reference: str,
    hypothesis: str,
    duration_seconds: float,
) -> Scored:
    """Compare one hypothesis with its reference; either may be empty."""
    reference, hypothesis = _one_line(reference), _one_line(hypothesis)
    words, characters = _count(reference, hypothesis)
    return Scored(id, corpus, reference, hypothesis, words, characters, duration_seconds)


def summarise(scored: Sequence[Scored]) -> list[Summary]:
    """One summary for each corpus, in order of appearance, and one named "total" of everything, always last."""
    corpora: dict[str, list[Scored]] = {}
    for one in scored:
        corpora.setdefault(one.corpus, []).append(one)
    return [_summary(name, members) for name, members in corpora.items()] + [_summary("total", scored)]


def worst(scored: Iterable[Scored], n: int) -> list[Scored]:
    """At most `n` utterances with errors: those that add most word errors first, at a tie the higher rate first."""
    wrong = [one for one in scored if one.words.errors]
    return sorted(wrong, key=lambda one: (-one.words.errors, -one.words.rate))[:n]


def confusions(scored: Iterable[Scored], n: int | None = None) -> list[Confusion]:
    """The `n` most frequent word errors (all when None), the most frequent first, ties in alphabetical order."""
    counter: Counter[tuple[ErrorKind, str, str]] = Counter()
    for one in scored:
        for kind, reference, hypothesis in _align(one.reference, one.hypothesis):
            if kind is not None:
                counter[kind, reference, hypothesis] += 1
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(*error, count) for error, count in ordered[:n]]


def align_text(reference: str, hypothesis: str) -> str:
    """Reference above hypothesis, word under word, with S, D and I below the errors (no third line without any)."""
    rows = ["REF:", "HYP:", "    "]
    for kind, above, below in _align(_one_line(reference), _one_line(hypothesis)):
        mark = kind[0].upper() if kind else ""
        cells = (above or "***", below or "***", mark)
        width = max(map(len, cells))
        rows = [f"{row} {cell:<{width}}" for row, cell in zip(rows, cells, strict=True)]
    return "\n".join(row.rstrip() for row in rows).rstrip()


def to_json(summaries: Iterable[Summary], scored: Iterable[Scored] = ()) -> dict[str, object]:
    """Plain values, ready for `json.dumps`: the summaries and, when given, every utterance. Rates are fractions."""
    return {
        "summaries": [
            {
                "name": summary.name,
                "utterances": summary.utterances,
                "seconds": round(summary.seconds, 3),
                "wer_interval": list(summary.wer_interval),
                "words": _count_fields(summary.words),
                "characters": _count_fields(summary.characters),
            }
            for summary in summaries
        ],
        "utterances": [
            {
                "id": one.id,
                "corpus": one.corpus,
                "duration_seconds": round(one.duration_seconds, 3),
                "reference": one.reference,
                "hypothesis": one.hypothesis,
                "words": _count_fields(one.words),
                "characters": _count_fields(one.characters),
            }
            for one in scored
        ],
    }


def table(summaries: Iterable[Summary], title: str | None = None) -> Table:
    """The summaries for a terminal: rates in per cent, errors in words, length in minutes."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title)
    result.add_column("corpus")
    for heading in ("utterances", "minutes", "WER %", "95 % interval", "CER %", "sub", "del", "ins", "words"):
        result.add_column(heading, justify="right")
    for summary in summaries:
        low, high = summary.wer_interval
        words = summary.words
        result.add_row(
            Text(summary.name),  # as Text, for a name in square brackets would be taken for markup
            str(summary.utterances),
            f"{summary.seconds / 60:.1f}",
            f"{100 * words.rate:.2f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * summary.characters.rate:.2f}",
            str(words.substitutions),
            str(words.deletions),
            str(words.insertions),
            str(words.reference_length),
            style="bold" if summary.name == "total" else None,
        )
    return result


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _count(reference: str, hypothesis: str) -> tuple[ErrorCounts, ErrorCounts]:
    """Word and character counts; jiwer refuses or redefines an empty reference, depending on its version."""
    if not reference:
        return ErrorCounts(0, 0, len(hypothesis.split()), 0), ErrorCounts(0, 0, len(hypothesis), 0)
    import jiwer

    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return (
        ErrorCounts(words.substitutions, words.deletions, words.insertions, len(reference.split())),
        ErrorCounts(characters.substitutions, characters.deletions, characters.insertions, len(reference)),
    )


def _align(reference: str, hypothesis: str) -> Iterator[tuple[ErrorKind | None, str, str]]:
    """Pairs of words in order, with the kind of error (None where they are equal); a missing word is empty."""
    above, below = reference.split(), hypothesis.split()
    if not above:
        yield from (("insertion", "", word) for word in below)
        return
    import jiwer

    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        left = above[chunk.ref_start_idx : chunk.ref_end_idx]
        right = below[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            yield from (("insertion", "", word) for word in right)
        elif chunk.type == "delete":
            yield from (("deletion", word, "") for word in left)
        else:
            kind: ErrorKind | None = "substitution" if chunk.type == "substitute" else None
            yield from ((kind, *pair) for pair in zip(left, right, strict=True))


def _summary(name: str, scored: Sequence[Scored]) -> Summary:
    nothing = ErrorCounts(0, 0, 0, 0)
    return Summary(
        name=name,
        utterances=len(scored),
        seconds=sum(one.duration_seconds for one in scored),
        words=sum((one.words for one in scored), nothing),
        characters=sum((one.characters for one in scored), nothing),
        wer_interval=_bootstrap_interval([one.words for one in scored]),
    )


def _bootstrap_interval(counts: Sequence[ErrorCounts]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the pooled rate over resampled utterances; the same at every call.

    Utterances, not words, are resampled: errors within one utterance come together.
    """
    if not counts:
        return 0.0, 0.0
    import numpy as np

    errors = np.array([one.errors for one in counts], dtype=np.int64)
    lengths = np.array([one.reference_length for one in counts], dtype=np.int64)
    generator = np.random.default_rng(0)
    rates = np.empty(RESAMPLES)
    block = max(1, BLOCK_DRAWS // len(counts))
    for first in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - first)
        drawn = generator.integers(len(counts), size=(rows, len(counts)))
        rates[first : first + rows] = errors[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _count_fields(counts: ErrorCounts) -> dict[str, int | float]:
    return {
        "rate": counts.rate,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "reference_length": counts.reference_length,
    }
