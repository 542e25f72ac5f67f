"""The commands `prepare` and `statistics`, registered by an entry point."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from asr.commands import options as shared
from asr.commands.options import extra
from asr.config import usable_cores
from asr.errors import DataError
from asr.terminal import Progress, loading, say
from asr.training.corpus.readers import Kind

if TYPE_CHECKING:
    from asr.training.corpus.prepare import Prepared

__all__ = ["register"]

_SHOWN = 5  # problems of a kind
_COLUMNS = ("utterances", "hours", "speakers", "words", "letters", "letters/s", "min", "5%", "50%", "95%", "max")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (prepare, statistics):
        app.command(rich_help_panel=shared.TRAINING)(command)


def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="Corpora. The first of several utterances with the same id is kept."),
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; an existing prepared corpus is replaced.")
    ],
    kind: Annotated[Kind, typer.Option(help="Kind of the sources.")] = Kind.auto,
    store: Annotated[
        Literal["copy", "link"],
        typer.Option(help="copy: 16 kHz WAV, 115 MB per hour, fast to read. link: refer to the original files."),
    ] = "copy",
    min_seconds: Annotated[float, typer.Option(help="Shortest utterance, seconds.")] = 0.2,
    max_seconds: Annotated[float, typer.Option(help="Longest utterance, seconds.")] = 40.0,
    jobs: Annotated[int, typer.Option(min=1, help="Number of decoding processes.")] = min(8, usable_cores()),
    quiet: shared.Quiet = False,
) -> None:
    """Check corpora and prepare them for training.

    A SOURCE is a JSON-lines manifest (id, audio, duration, text, speaker), a folder like LibriSpeech
    (speaker/chapter/*.trans.txt) or Kaldi (wav.scp, text, segments, utt2spk), a table of Common Voice (validated.tsv
    beside clips), or lhotse's cuts (cuts.jsonl.gz). Every utterance is decoded once. Unusable utterances are left out,
    named and counted; DIR/problems.jsonl lists all of them. After an interruption, the same command resumes.

    Exit status: 0 if any utterance is left, 1 if none is.

    Examples:
      spellstream prepare LibriSpeech/train-clean-100 --output prepared/train --jobs 16
      spellstream prepare mine.jsonl cv-corpus/en/validated.tsv --output prepared/mine --max-seconds 20
    """
    loading("PyTorch", quiet)
    with extra("train"):
        import lhotse  # noqa: F401 - report a missing package now, not after hours of decoding

        from asr.training.corpus import prepare as preparing
        from asr.training.corpus.checks import DurationLimits

    with shared.usage("--min-seconds, --max-seconds"):
        limits = DurationLimits(min_seconds, max_seconds)
    settings = preparing.Settings(kind, store, limits, jobs)
    with Progress(show=not quiet and sys.stderr.isatty(), unit="utterances") as progress:

        def advance(total: int, seconds: float) -> None:
            progress.total = total
            progress.advance(seconds)

        report = preparing.prepare(sources, output, settings, advance)
    _tell(report, output)


def _tell(report: Prepared, output: Path) -> None:
    """Print some problems of each kind to standard error, and the totals to standard output."""
    for kind, count in report.counts.items():
        for problem in [p for p in report.problems if p.kind == kind][:_SHOWN]:
            say(f"{problem.id}: {kind}: {problem.reason}")
        if count > _SHOWN:
            say(f"and {count - _SHOWN} more: {kind}")
    left_out = f"{len(report.problems)} left out"
    if report.counts:
        left_out += f" ({', '.join(f'{count} {kind}' for kind, count in report.counts.items())})"
    if not report.utterances:
        raise DataError(f"{output}: no utterance is left: {left_out}; all are in {output}.part/problems.jsonl")
    found = " were prepared already" if report.found else ""
    typer.echo(f"{output}: {report.utterances} utterances, {report.seconds / 3600:.2f} h{found}; {left_out}")


def statistics(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A prepared corpus.")],
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Print statistics of a prepared corpus, and measure its features.

    Shows utterances, hours, speakers and lengths of each corpus in DIR. Stores these numbers, with the mean and
    standard deviation of the features over a sample, in DIR/statistics.json for training.

    Example:
      spellstream statistics prepared/train
    """
    loading("PyTorch", quiet)
    with extra("train"):
        from asr.config import FeatureConfig
        from asr.model.features import build_features
        from asr.training import statistics as stats
        from asr.training.data import Corpus

    corpus = Corpus.open(folder)
    table = stats.describe(corpus.entries)
    config = FeatureConfig()
    chosen = stats.sample(corpus)
    with Progress(len(chosen), show=not quiet and sys.stderr.isatty(), unit="utterances measured") as progress:
        measured = stats.measure_features(corpus, build_features(config), progress.advance)
    stats.write_statistics(folder, table, config, measured)
    if as_json:
        typer.echo((folder / stats.FILE).read_text(encoding="utf-8"), nl=False)
    else:
        _show(table, folder.name)


def _show(rows: dict[str, dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("corpus", *_COLUMNS, "out of alphabet", title=title, caption="min to max: seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        cells = [
            row["utterances"],
            row["hours"],
            row["speakers"],
            row["words"],
            row["letters"],
            row["letters_a_second"],
        ]
        lengths = [f"{value:.1f}" for value in row["seconds"].values()]
        odd = " ".join(f"{letter!r}×{count}" for letter, count in row["out_of_alphabet"].items()) or "none"
        table.add_row(name, *map(str, cells), *lengths, odd)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
