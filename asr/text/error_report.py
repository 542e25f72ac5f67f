"""Details of an error rate: a table, the worst utterances, aligned texts, the most frequent confusions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from asr.text.metrics import Scored, Summary

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Confusion", "align_text", "confusions", "table", "worst"]

ErrorKind = Literal["substitution", "deletion", "insertion"]


class Confusion(NamedTuple):
    """A word error and its number of occurrences; the missing side of a deletion or insertion is empty."""

    kind: ErrorKind
    reference: str
    hypothesis: str
    occurrences: int


def worst(scored: Iterable[Scored], n: int) -> list[Scored]:
    """The `n` utterances with most word errors; among equals, those with the higher rate first."""
    wrong = [one for one in scored if one.words.errors]
    return sorted(wrong, key=lambda one: (-one.words.errors, -one.words.rate))[:n]


def confusions(scored: Iterable[Scored], n: int | None = None) -> list[Confusion]:
    """The `n` most frequent word errors (None: all), sorted by frequency, then alphabetically."""
    counter: Counter[tuple[ErrorKind, str, str]] = Counter()
    for one in scored:
        for kind, reference, hypothesis in _align(one.reference, one.hypothesis):
            if kind is not None:
                counter[kind, reference, hypothesis] += 1
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(*error, count) for error, count in ordered[:n]]


def align_text(reference: str, hypothesis: str) -> str:
    """Reference above hypothesis, word under word, with S, D or I below each error; two lines if there is none."""
    rows = ["REF:", "HYP:", "    "]
    for kind, above, below in _align(reference, hypothesis):
        mark = kind[0].upper() if kind else ""
        cells = (above or "***", below or "***", mark)
        width = max(map(len, cells))
        rows = [f"{row} {cell:<{width}}" for row, cell in zip(rows, cells, strict=True)]
    return "\n".join(row.rstrip() for row in rows).rstrip()


def table(summaries: Sequence[Summary], title: str | None = None, plain: Sequence[Summary] = ()) -> Table:
    """The summaries for a terminal: rates in per cent, errors in words, length in minutes.

    Args:
        summaries: one row each.
        title: above the table.
        plain: summaries under the plain normaliser, whose word error rates are shown beside those of the same name.
    """
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title)
    result.add_column("corpus")
    beside = ("plain WER %",) if plain else ()
    for heading in ("utterances", "minutes", "WER %", "95 % interval", *beside, "CER %", "sub", "del", "ins", "words"):
        result.add_column(heading, justify="right")
    plain_rates = {summary.name: f"{100 * summary.words.rate:.2f}" for summary in plain}
    for summary in summaries:
        low, high = summary.wer_interval
        words = summary.words
        result.add_row(
            Text(summary.name),  # a plain string in square brackets would be read as markup
            str(summary.utterances),
            f"{summary.seconds / 60:.1f}",
            f"{100 * words.rate:.2f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            *((plain_rates.get(summary.name, "–"),) if plain else ()),
            f"{100 * summary.characters.rate:.2f}",
            str(words.substitutions),
            str(words.deletions),
            str(words.insertions),
            str(words.reference_length),
            style="bold" if summary.name == "total" else None,
        )
    return result


def _align(reference: str, hypothesis: str) -> Iterator[tuple[ErrorKind | None, str, str]]:
    """Aligned pairs of words with the kind of error, None for equal words; a missing word is empty."""
    above, below = reference.split(), hypothesis.split()
    if not above:
        yield from (("insertion", "", word) for word in below)
        return
    import jiwer

    for chunk in jiwer.process_words(" ".join(above), " ".join(below)).alignments[0]:
        left = above[chunk.ref_start_idx : chunk.ref_end_idx]
        right = below[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            yield from (("insertion", "", word) for word in right)
        elif chunk.type == "delete":
            yield from (("deletion", word, "") for word in left)
        else:
            kind: ErrorKind | None = "substitution" if chunk.type == "substitute" else None
            yield from ((kind, *pair) for pair in zip(left, right, strict=True))
