"""The command's options, and what those that several commands share come to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr.errors import ConfigError, DependencyError
from asr.output.formats import FORMATS, parse_formats
from asr.terminal import say

if TYPE_CHECKING:
    from asr.archive.batch import Transcriber
    from asr.config import SearchConfig
    from asr.recogniser import Recogniser

__all__ = ["DeviceName", "DtypeName", "check_cluster", "extra", "formats", "load", "transcriber", "usage"]


class DeviceName(str, Enum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DtypeName(str, Enum):
    """The kind of number it computes with."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


# --- the model and its search -----------------------------------------------------------------------------------------

_MODEL, _SEARCH = "Model", "Search (the model's own settings where not given)"

ModelName = Annotated[
    str, typer.Option("--model", help="A shipped model or a checkpoint folder.", metavar="NAME", rich_help_panel=_MODEL)
]
Device = Annotated[DeviceName, typer.Option(help="auto: a GPU where there is one.", rich_help_panel=_MODEL)]
Dtype = Annotated[DtypeName, typer.Option(help="What to compute in.", rich_help_panel=_MODEL)]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; all if not given.", rich_help_panel=_MODEL)]
BatchSize = Annotated[int, typer.Option(min=1, help="Stretches of speech at a time.", rich_help_panel=_MODEL)]
BeamSize = Annotated[
    int | None, typer.Option(min=1, max=256, help="Hypotheses that are kept; 1 is greedy.", rich_help_panel=_SEARCH)
]
CtcWeight = Annotated[
    float | None, typer.Option(min=0, max=1, help="CTC's share in the score.", rich_help_panel=_SEARCH)
]
LmWeight = Annotated[
    float | None, typer.Option(min=0, help="Weight of the language model; 0 is without.", rich_help_panel=_SEARCH)
]
Lm = Annotated[
    Path | None,
    typer.Option("--lm", metavar="DIR", help="A language model in place of the model's own.", rich_help_panel=_MODEL),
]

# --- transcribe -------------------------------------------------------------------------------------------------------

Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE", help="A file, a folder, a manifest (.jsonl), or - for standard input."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write DIR/talk.wav.txt and so on, folders as they are; else standard output."),
]
Format = Annotated[str, typer.Option("--format", metavar="NAMES", help=f"{', '.join(FORMATS)} (with commas) or all.")]
WordTimestamps = Annotated[
    bool | None,
    typer.Option("--word-timestamps/--no-word-timestamps", help="Time each word. On for json, srt and vtt."),
]
Nbest = Annotated[int, typer.Option(min=1, max=256, help="So many alternatives of each segment, in json.")]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a row for each source to FILE.jsonl, or to parts in FILE.parquet."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Skip what the output holds already.")]
KeepDamaged = Annotated[
    bool,
    typer.Option("--keep-damaged", help="Write what was said before a file breaks off; it still counts as failed."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

_CLUSTER = "Cluster"
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster, an engine on each GPU, or on each --threads cores (1): local, auto or HOST:PORT.",
        rich_help_panel=_CLUSTER,
    ),
]
Engines = Annotated[
    int | None, typer.Option(min=1, help="At most so many; all that fit if not given.", rich_help_panel=_CLUSTER)
]

# --- evaluate ---------------------------------------------------------------------------------------------------------

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON lines: id, audio, duration, text.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write all scores, too; - in place of the table.")
]
Worst = Annotated[int, typer.Option(min=0, help="Show so many of the worst utterances, aligned.")]
Confusions = Annotated[int, typer.Option(min=0, help="Show so many of the most frequent errors.")]
Corpora = Annotated[list[str] | None, typer.Option("--corpus", metavar="NAME", help="Only this; may be given again.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many utterances.")]

# --- plot and info ----------------------------------------------------------------------------------------------------

PlotSource = Annotated[str, typer.Argument(metavar="FILE", help="Audio or video, or - for standard input.")]
Picture = Annotated[Path | None, typer.Option(metavar="PNG", help="FILE.png in this folder if not given.")]
InfoModel = Annotated[str | None, typer.Option(metavar="NAME", help="Tell about this model, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@contextlib.contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """Report a ConfigError as wrong use of an option."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install where a package that comes with it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DependencyError(f"the package {package} is missing: pip install 'spellstream[{name}]'") from error


def check_cluster(ray: str | None, engines: int | None, sources: Sequence[str]) -> None:
    """Refuse what does not go with a cluster, or without one."""
    if ray is None and engines is not None:
        raise typer.BadParameter("it goes with --ray", param_hint="--engines")
    if ray is not None and "-" in sources:
        raise typer.BadParameter("a cluster cannot read standard input", param_hint="--ray")


def formats(
    names: str, sources: Sequence[str], *, to_files: bool, to_rows: bool, resume: bool, nbest: int
) -> tuple[str, ...]:
    """The formats that `names` lists, checked against the other options of `transcribe`; that of rows is json."""
    from asr.archive.sources import are_several

    if to_rows:
        if to_files:
            raise typer.BadParameter("it cannot go with an --output-dir", param_hint="--output")
        if names not in ("txt", "json"):
            raise typer.BadParameter("rows hold what json does; leave it out", param_hint="--format")
        return ("json",)
    with usage("--format"):
        chosen = parse_formats(names)
        if not to_files and len(chosen) > 1:
            raise ConfigError(f"several formats ({names}) need an --output-dir")
        if not to_files and chosen[0] not in ("txt", "json") and are_several(sources):
            raise ConfigError(f"{chosen[0]} of several sources needs an --output-dir")
    if resume and not to_files:
        raise typer.BadParameter("it needs an --output-dir or an --output", param_hint="--resume")
    if nbest > 1 and "json" not in chosen:
        raise typer.BadParameter("alternatives are shown in json alone: add --format json", param_hint="--nbest")
    return chosen


def load(
    model: str,
    device: DeviceName,
    threads: int | None,
    *,
    dtype: DtypeName = DtypeName.float32,
    beam_size: int | None = None,
    ctc_weight: float | None = None,
    lm_weight: float | None = None,
    lm: Path | None = None,
    nbest: int = 1,
) -> tuple[Recogniser, SearchConfig]:
    """The recogniser that the options ask for, and its own search settings with those given in their place.

    The beam is at least as wide as `nbest`, unless it was given.
    """
    import asr

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    recogniser = asr.load(model, device.value, dtype.value, lm)
    own = recogniser.model.config.search
    with usage():
        search = replace(
            own,
            nbest=nbest,
            beam_size=max(own.beam_size, nbest) if beam_size is None else beam_size,
            ctc_weight=own.ctc_weight if ctc_weight is None else ctc_weight,
            lm_weight=own.lm_weight if lm_weight is None else lm_weight,
        )
    if search.beam_size == 1:
        for option, given in (("--lm", lm), ("--lm-weight", lm_weight), ("--ctc-weight", ctc_weight)):
            if given:
                raise typer.BadParameter("greedy search, a beam of 1, takes no account of it", param_hint=option)
        search = replace(search, lm_weight=0.0, ctc_weight=0.0, length_bonus=0.0)
    elif lm is not None and lm_weight is None and search.lm_weight == 0:
        raise typer.BadParameter(f"the model {model} gives it no weight: add --lm-weight", param_hint="--lm")
    with usage("--lm-weight"):
        recogniser.language_model(search)  # what is wrong with it is told before any work is done
    return recogniser, search


@contextlib.contextmanager
def transcriber(
    ray: str | None,
    engines: int | None,
    model: str,
    device: DeviceName,
    dtype: DtypeName,
    threads: int | None,
    *,
    lm: Path | None,
    **search: Any,
) -> Iterator[tuple[Transcriber, SearchConfig]]:
    """What `load` gives, or in the recogniser's place as many of them as a cluster has room for."""
    if ray is None:
        yield load(model, device, threads, dtype=dtype, lm=lm, **search)
        return
    from asr.archive.cluster import Cluster, Setup
    from asr.files import absolute

    # Here the model is loaded only to find out what is wrong with it or the settings.
    _, settings = load(model, DeviceName.cpu, threads, dtype=dtype, lm=lm, **search)
    folder = absolute(model) if Path(model).is_dir() else model
    setup = Setup(folder, device.value, dtype.value, absolute(str(lm)) if lm else None, threads or 1)
    with Cluster(ray, setup, engines) as cluster:
        say(f"{cluster.engines} engines on the cluster {ray}: they load the model now")
        yield cluster, settings
