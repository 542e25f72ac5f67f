"""`spellstream evaluate`: error rates of our own transcripts, or of another system's."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr import __version__
from asr.commands import options as opt
from asr.commands.groups import grouped
from asr.config import to_dict
from asr.files import require_folder, write_atomically
from asr.terminal import Progress, loading, say
from asr.text.normalise import Normaliser
from asr.writing.parts import Style

if TYPE_CHECKING:
    from rich.console import Console

    from asr.commands.evaluation import ErrorRates, Evaluation, Selection
    from asr.config import SearchConfig
    from asr.recogniser import Recogniser

__all__ = ["evaluate"]


Manifest = Annotated[
    Path,
    typer.Argument(
        metavar="MANIFEST",
        help="Audio and texts: a .jsonl, .json, .csv or .tsv, or a folder with a NAME.txt beside each audio file.",
    ),
]
Hypotheses = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Score these texts instead of our own: .jsonl, .csv or .tsv with id and text, .trn, or .txt (id, text).",
    ),
]
NormaliserOption = Annotated[
    Normaliser,
    typer.Option(help="plain: letters and apostrophes. whisper: Whisper's English normaliser, as well as plain."),
]
StyleOption = Annotated[
    Style,
    typer.Option(help="written: also score marks and capitals, against references that have them."),
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write all scores as JSON; - prints them instead.")
]
Worst = Annotated[int, typer.Option(min=0, help="Number of utterances to show, aligned, those with most errors first.")]
Confusions = Annotated[int, typer.Option(min=0, help="Number of confusions to show, most frequent first.")]
Corpora = Annotated[list[str] | None, typer.Option("--corpus", metavar="NAME", help="Only this corpus; repeatable.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Score at most this many utterances.")]


@dataclass(frozen=True)
class ScoringOptions:
    """What to compare with the references, and how."""

    hypotheses: Hypotheses = None
    normaliser: NormaliserOption = "plain"
    style: StyleOption = "spoken"
    corpora: Corpora = None
    limit: Limit = None


@dataclass(frozen=True)
class ReportOptions:
    """Parts of the scores to show."""

    json_file: JsonFile = None
    worst: Worst = 5
    confusions: Confusions = 0


@grouped
def evaluate(
    manifest: Manifest,
    scoring: ScoringOptions,
    shown: ReportOptions,
    model: opt.ModelOptions,
    search: opt.SearchOptions,
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = 16,
    track: Annotated[str | None, opt.track_option()] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Compute word and character error rates against reference texts.

    References and hypotheses are compared in lower case, without punctuation and accents, and with old spellings
    modernised ("to-morrow"). Utterances without a text are left out and counted. The plain normaliser also leaves out
    utterances whose text has digits or another script.

    --style written adds precision, recall and F1 of each mark and of capitals: a mark is correct if the reference has
    it after the same word, a capital if the case of the whole word agrees.

    Examples:
      spellstream evaluate test.jsonl
      spellstream evaluate test.jsonl --corpus test-other --beam-size 1 --worst 20
      spellstream evaluate test.jsonl --normaliser whisper --json scores.json --confusions 10
      spellstream evaluate test.jsonl --hypotheses other.jsonl
      spellstream evaluate punctuated.jsonl --style written
    """
    from asr.commands import evaluation
    from asr.text.normalise import normaliser

    json_path = None if shown.json_file in (None, "-") else Path(shown.json_file)
    if json_path is not None:
        require_folder(json_path)
    selection = evaluation.select(manifest, scoring.corpora or (), scoring.limit, plain=scoring.normaliser == "plain")
    for problem in selection.errors:
        say(problem)
    if not selection.utterances:
        raise typer.Exit(1)
    with opt.extra("evaluate"):
        marks = scoring.style == "written"
        rates = evaluation.ErrorRates(normaliser(scoring.normaliser), marks)

    if scoring.hypotheses is not None:
        _refuse_model_options(model, search, track)
        result, about = _score_file(scoring.hypotheses, selection, rates)
    else:
        loading(f"the model {model.model}", quiet)
        from asr.processes import Processes

        recogniser, config = opt.load(model, search, dtype=dtype)
        show = not quiet and sys.stderr.isatty()
        with (
            Processes(recogniser) as processes,
            Progress(len(selection.utterances), show=show, unit="utterances") as progress,
        ):
            result = evaluation.transcribe(
                recogniser,
                selection,
                rates,
                progress,
                search=config,
                batch_size=batch_size,
                track=track,
                processes=processes,
            )
        about = {"model": model.model, **_model_settings(recogniser, config, batch_size)}

    settings = {
        "spellstream": __version__,
        "normaliser": scoring.normaliser,
        "style": scoring.style,
        **about,
    }
    if result.scored and shown.json_file is not None:
        scores = json.dumps(to_json(result, settings), indent=2, ensure_ascii=False) + "\n"
        sys.stdout.write(scores) if json_path is None else write_atomically(json_path, scores)
    if result.scored and shown.json_file != "-":
        report(result, settings, manifest.name, shown)
    total = len(result.scored) + result.failed
    if result.failed and total > 1:
        say(f"{result.failed} of {total} failed")
    raise typer.Exit(1 if result.failed else 0)


def _refuse_model_options(model: opt.ModelOptions, search: opt.SearchOptions, track: str | None) -> None:
    """Refuse options of recognition, which have no effect if the texts are given."""
    if model != opt.ModelOptions() or search != opt.SearchOptions() or track is not None:
        raise typer.BadParameter(
            "options of the model, the search or the audio have no effect with it", param_hint="--hypotheses"
        )


def _score_file(path: Path, selection: Selection, rates: ErrorRates) -> tuple[Evaluation, dict[str, Any]]:
    """The scores of another system's texts, and the settings to report with them."""
    from asr.archive import hypotheses
    from asr.commands.evaluation import score_hypotheses

    found = hypotheses.read(path)
    for problem in found.errors:
        say(problem)
    result = score_hypotheses(found, selection, rates)
    unused = len(found.texts) - len(result.scored)
    return result, {"hypotheses": str(path), "hypotheses_not_scored": unused}


def _model_settings(recogniser: Recogniser, search: SearchConfig, batch_size: int) -> dict[str, Any]:
    """The settings, apart from the model, that affect the transcripts."""
    import torch

    return {
        "device": recogniser.device.type,
        "dtype": recogniser.dtype,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "search": to_dict(search),
    }


def to_json(evaluation: Evaluation, settings: dict[str, Any]) -> dict[str, Any]:
    """All scores as plain values for `json.dumps`; rates are fractions."""
    from asr.text import metrics

    result = {
        "settings": settings,
        "failed": evaluation.failed,
        "skipped": evaluation.skipped,
        "wall_seconds": None if evaluation.wall_seconds is None else round(evaluation.wall_seconds, 3),
        "audio_seconds": round(evaluation.audio_seconds, 3),
        "real_time_factor": evaluation.real_time_factor,
        **metrics.to_json(metrics.summarise(evaluation.scored), evaluation.scored),
    }
    if evaluation.plain:
        result["plain_summaries"] = metrics.to_json(metrics.summarise(evaluation.plain))["summaries"]
    if evaluation.written:
        result["written"] = {"utterances": len(evaluation.written), **_written(evaluation)}
    return result


def _written(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Counts and rates of each mark and of capitals, over all utterances whose references have any."""
    from asr.text.marks import WrittenScore

    pooled = sum(evaluation.written, WrittenScore())
    return {
        name: {
            **dataclasses.asdict(found),
            "precision": round(found.precision, 4),
            "recall": round(found.recall, 4),
            "f1": round(found.f1, 4),
        }
        for name, found in {**pooled.marks, "capitals": pooled.capitals}.items()
    }


def report(evaluation: Evaluation, settings: dict[str, Any], title: str, shown: ReportOptions) -> None:
    """Print the table, the speed, the settings, the worst utterances and the most frequent errors."""
    from rich.console import Console

    from asr.text import error_report, metrics

    # In a file or pipe, lines are as long as they need to be.
    console = Console() if sys.stdout.isatty() else Console(width=200)

    def line(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    plain = metrics.summarise(evaluation.plain) if evaluation.plain else ()
    console.print(error_report.table(metrics.summarise(evaluation.scored), title, plain))
    if settings["style"] == "written":
        _report_marks(evaluation, console)
    if evaluation.wall_seconds is not None:
        spent = f"{evaluation.audio_seconds:.1f} s of audio in {evaluation.wall_seconds:.1f} s"
        line(f"{spent}: real-time factor {evaluation.real_time_factor:.4f}")
    line(" · ".join(f"{name} {value}" for name, value in _flat(settings)))
    if evaluation.skipped:
        digits = ", or digits or another script in it" if settings["normaliser"] == "plain" else ""
        line(f"{evaluation.skipped} utterances were left out: no text{digits}")
    if plain and len(evaluation.plain) < len(evaluation.scored):
        left = len(evaluation.scored) - len(evaluation.plain)
        line(f"{left} utterances are not in the plain WER: digits or another script in their text")

    for one in error_report.worst(evaluation.scored, shown.worst):
        words = one.words
        line(f"\n{one.id} ({one.corpus}): {words.errors} errors in {words.reference_length} words")
        line(error_report.align_text(one.reference, one.hypothesis))

    found = error_report.confusions(evaluation.scored, shown.confusions) if shown.confusions else []
    if found:
        line("\nmost frequent errors:")
    for confusion in found:
        pair = f"{confusion.reference or '***'} → {confusion.hypothesis or '***'}"
        line(f"{confusion.occurrences:6d}  {confusion.kind:12}  {pair}")


def _report_marks(evaluation: Evaluation, console: Console) -> None:
    """Print the table of marks and capitals, or that no reference has any."""
    from rich.table import Table

    if not evaluation.written:
        console.print("no reference has marks or capitals to compare with")
        return
    table = Table(title=f"marks and capitals, {len(evaluation.written)} utterances")
    table.add_column("mark")
    for heading in ("precision %", "recall %", "F1 %", "in references"):
        table.add_column(heading, justify="right")
    for name, found in _written(evaluation).items():
        expected = found["right"] + found["missed"]
        if expected or found["extra"]:
            rates = (f"{100 * found[rate]:.1f}" for rate in ("precision", "recall", "f1"))
            table.add_row(name, *rates, str(expected))
    console.print(table)


def _flat(settings: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value
