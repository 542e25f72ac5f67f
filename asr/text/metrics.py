"""Word and character error rates, with confidence intervals.

Texts are compared as given except for runs of white space: normalise case and punctuation before scoring.
Every rate is a fraction (0.05 is 5 %). Characters are counted with the spaces between words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["ErrorCounts", "Scored", "Summary", "score", "summarise", "to_json"]

RESAMPLES = 1000
# Draws per block of the bootstrap, so that its memory does not grow with the test set.
BLOCK_DRAWS = 1_000_000


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, in words or in characters; `+` pools counts."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """The number of edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference; an empty reference counts as one, so the rate is finite."""
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
    """The scores of one utterance."""

    id: str
    corpus: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    duration_seconds: float


@dataclass(frozen=True)
class Summary:
    """Pooled scores of many utterances: errors are summed before the division, so long utterances weigh more.

    `wer_interval` is the 95 % bootstrap interval (low, high) of the word error rate.
    """

    name: str
    utterances: int
    seconds: float
    words: ErrorCounts
    characters: ErrorCounts
    wer_interval: tuple[float, float]


def score(
    id: str,  # noqa: A002 - as in manifests
    corpus: str,
    reference: str,
    hypothesis: str,
    duration_seconds: float,
) -> Scored:
    """Score one hypothesis against its reference; either may be empty."""
    reference, hypothesis = _one_line(reference), _one_line(hypothesis)
    words, characters = _count(reference, hypothesis)
    return Scored(id, corpus, reference, hypothesis, words, characters, duration_seconds)


def summarise(scored: Sequence[Scored]) -> list[Summary]:
    """A summary of each corpus, in order of appearance, and one of everything, named "total", last."""
    corpora: dict[str, list[Scored]] = {}
    for one in scored:
        corpora.setdefault(one.corpus, []).append(one)
    return [_summary(name, members) for name, members in corpora.items()] + [_summary("total", scored)]


def to_json(summaries: Iterable[Summary], scored: Iterable[Scored] = ()) -> dict[str, object]:
    """The summaries and utterances as plain values for `json.dumps`; rates are fractions."""
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


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _count(reference: str, hypothesis: str) -> tuple[ErrorCounts, ErrorCounts]:
    """Word and character counts; an empty reference is handled here, since jiwer's versions treat it differently."""
    if not reference:
        return ErrorCounts(0, 0, len(hypothesis.split()), 0), ErrorCounts(0, 0, len(hypothesis), 0)
    import jiwer

    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return (
        ErrorCounts(words.substitutions, words.deletions, words.insertions, len(reference.split())),
        ErrorCounts(characters.substitutions, characters.deletions, characters.insertions, len(reference)),
    )


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
    """The 2.5th and 97.5th percentile of the pooled rate over resampled utterances, with a fixed seed.

    Utterances are resampled rather than words, since errors within an utterance are correlated.
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
