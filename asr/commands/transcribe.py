"""`spellstream transcribe`: audio and video files to text."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands import options as opt
from asr.commands.groups import grouped
from asr.errors import ConfigError
from asr.output.formats import FORMATS, parse_formats
from asr.terminal import Progress, say

if TYPE_CHECKING:
    from asr.archive.batch import Transcriber
    from asr.config import SearchConfig

__all__ = ["transcribe"]

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
Nbest = Annotated[int, typer.Option(min=1, max=256, help="Alternatives per segment, in json.")]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write one row per source to FILE.jsonl, or to parts in FILE.parquet."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Skip sources whose output is complete.")]
KeepDamaged = Annotated[
    bool,
    typer.Option("--keep-damaged", help="Write the readable part of a damaged file, which still counts as failed."),
]

_CLUSTER = "Cluster"
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: local, auto or HOST:PORT. One engine per GPU, else per --threads cores.",
        rich_help_panel=_CLUSTER,
    ),
]
Engines = Annotated[
    int | None, typer.Option(min=1, help="Engines at most; all that fit by default.", rich_help_panel=_CLUSTER)
]


@dataclass(frozen=True)
class OutputOptions:
    """Where transcripts go, and what is in them."""

    output_dir: OutputDir = None
    format_names: Format = "txt"
    output: Output = None
    word_timestamps: WordTimestamps = None
    nbest: Nbest = 1
    resume: Resume = False
    keep_damaged: KeepDamaged = False

    def formats(self, sources: Sequence[str]) -> tuple[str, ...]:
        """The formats to write, checked against the other options; rows are json."""
        from asr.archive.sources import are_several

        if self.output is not None:
            if self.output_dir is not None:
                raise typer.BadParameter("it cannot go with an --output-dir", param_hint="--output")
            if self.format_names not in ("txt", "json"):
                raise typer.BadParameter("rows hold what json does; leave it out", param_hint="--format")
            return ("json",)
        with opt.usage("--format"):
            chosen = parse_formats(self.format_names)
            if self.output_dir is None and len(chosen) > 1:
                raise ConfigError(f"several formats ({self.format_names}) need an --output-dir")
            if self.output_dir is None and chosen[0] not in ("txt", "json") and are_several(sources):
                raise ConfigError(f"{chosen[0]} of several sources needs an --output-dir")
        if self.resume and self.output_dir is None:
            raise typer.BadParameter("it needs an --output-dir or an --output", param_hint="--resume")
        if self.nbest > 1 and "json" not in chosen:
            raise typer.BadParameter("alternatives are shown in json alone: add --format json", param_hint="--nbest")
        return chosen


@dataclass(frozen=True)
class ClusterOptions:
    """The Ray cluster to work on, if any."""

    ray: Ray = None
    engines: Engines = None

    def check(self, sources: Sequence[str]) -> None:
        """Refuse options that contradict each other."""
        if self.ray is None and self.engines is not None:
            raise typer.BadParameter("it goes with --ray", param_hint="--engines")
        if self.ray is not None and "-" in sources:
            raise typer.BadParameter("a cluster cannot read standard input", param_hint="--ray")


@grouped
def transcribe(
    sources: Sources,
    out: OutputOptions,
    model: opt.ModelOptions,
    search: opt.SearchOptions,
    cluster: ClusterOptions,
    dtype: opt.Dtype = opt.DtypeName.float32,
    batch_size: opt.BatchSize = 16,
    quiet: opt.Quiet = False,
) -> None:
    """Turn audio and video files into text.

    Folders are searched to their depths. A file that cannot be read is named on standard error and the rest is done.
    On a cluster, all nodes must see the files, and a model folder, under the same path.

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe talk.mp4 --format srt > talk.srt
      spellstream transcribe recordings --output-dir texts --resume
      arecord -d 5 -f S16_LE -r 16000 | spellstream transcribe -
      spellstream transcribe archive --ray auto --output archive.parquet --resume
    """
    from asr.archive import batch, sinks
    from asr.archive.sources import find

    cluster.check(sources)
    formats = out.formats(sources)
    word_timestamps = out.word_timestamps
    if word_timestamps is None:
        word_timestamps = bool({"json", "srt", "vtt"} & {*formats})
    to_stdout = out.output is None and out.output_dir is None
    show = not quiet and sys.stderr.isatty() and not (to_stdout and sys.stdout.isatty())
    report = not quiet and cluster.ray is not None

    with contextlib.ExitStack() as opened:
        # The output comes first: a place that cannot be written to is known before a model is loaded.
        with opt.extra("ray"), opt.usage("--output"):
            sink = sinks.open_sink(sources, out.output, out.output_dir, formats, resume=out.resume)
        opened.enter_context(contextlib.closing(sink))
        with opt.extra("ray"):
            transcriber, config = opened.enter_context(_transcriber(cluster, model, search, dtype, out.nbest))

        total = sum(1 for _ in find(sources)) if show or report else 0
        progress = opened.enter_context(Progress(total, show=show, line_seconds=60.0 if report else math.inf))
        options = batch.Options(config, word_timestamps, batch_size, out.resume, out.keep_damaged)
        totals = batch.run(transcriber, sources, sink, options, progress)

    if report:
        say(progress.summary())
    if totals.failed and totals.total > 1:
        say(f"{totals.failed} of {totals.total} failed")
    raise typer.Exit(1 if totals.failed else 0)


@contextlib.contextmanager
def _transcriber(
    cluster: ClusterOptions, model: opt.ModelOptions, search: opt.SearchOptions, dtype: opt.DtypeName, nbest: int
) -> Iterator[tuple[Transcriber, SearchConfig]]:
    """The recogniser, or as many of them as a cluster has room for, and the search settings."""
    if cluster.ray is None:
        yield opt.load(model, search, dtype=dtype, nbest=nbest)
        return
    from asr.archive.cluster import Cluster, Setup
    from asr.files import absolute

    # The model is loaded here only to check it and the settings before engines are started.
    _, config = opt.load(replace(model, device=opt.DeviceName.cpu), search, dtype=dtype, nbest=nbest)
    folder = absolute(model.model) if Path(model.model).is_dir() else model.model
    lm = absolute(str(model.lm)) if model.lm else None
    setup = Setup(folder, model.device.value, dtype.value, lm, model.threads or 1)
    with Cluster(cluster.ray, setup, cluster.engines) as engines:
        say(f"{engines.engines} engines on the cluster {cluster.ray} are loading the model")
        yield engines, config
