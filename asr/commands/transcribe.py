"""`spellstream transcribe`: audio and video files to text."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands import options as opt
from asr.commands.groups import grouped
from asr.errors import ConfigError
from asr.output.formats import FORMATS, parse_formats
from asr.output.rows import SUFFIXES as ROW_SUFFIXES
from asr.output.subtitles import SubtitleShape
from asr.terminal import Progress, loading, say
from asr.writing.parts import Style

if TYPE_CHECKING:
    from asr.archive.sinks import Destination
    from asr.recogniser import Outcome
    from asr.writing.hotwords import Hotwords

__all__ = ["transcribe"]

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE", help="A file, a folder, a manifest (.jsonl, .json, .csv, .tsv), or - for standard input."
    ),
]
_OUTPUT, _CONTENT, _SUBTITLES = "Output (default: standard output)", "Content", "Subtitles (srt, vtt, tsv)"

OutputDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write DIR/talk.txt for talk.mp4; folders are mirrored.", rich_help_panel=_OUTPUT),
]
Beside = Annotated[bool, typer.Option("--beside", help="Write talk.txt beside talk.mp4.", rich_help_panel=_OUTPUT)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write one transcript to FILE.txt, FILE.srt and so on, or one row per source to FILE.jsonl or "
        "FILE.parquet.",
        rich_help_panel=_OUTPUT,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAMES",
        help=f"{', '.join(FORMATS)} (separated by commas), or all.",
        rich_help_panel=_OUTPUT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Skip sources whose output is complete.", rich_help_panel=_OUTPUT)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="With --beside: replace files.", rich_help_panel=_OUTPUT)]
WordTimestamps = Annotated[
    bool | None,
    typer.Option(
        "--word-timestamps/--no-word-timestamps",
        help="Time each word. Default: on, except for txt in the spoken style.",
        rich_help_panel=_CONTENT,
    ),
]
Nbest = Annotated[
    int, typer.Option(min=1, max=256, help="Alternatives per segment, in json.", rich_help_panel=_CONTENT)
]
StyleOption = Annotated[
    Style,
    typer.Option(
        "--style",
        help="written: capitals, punctuation and digits; spoken: the words as recognised, in lower case.",
        rich_help_panel=_CONTENT,
    ),
]
KeepDamaged = Annotated[
    bool,
    typer.Option(
        "--keep-damaged",
        help="Transcribe the readable part of a damaged file; the file still counts as failed.",
        rich_help_panel=_CONTENT,
    ),
]
TrackOption = Annotated[str | None, opt.track_option(_CONTENT)]
Language = Annotated[
    str | None, typer.Option(metavar="NAME", help="Spoken language; only en.", rich_help_panel=_CONTENT)
]
LineWidth = Annotated[int, typer.Option(min=1, max=1000, help="Characters per line.", rich_help_panel=_SUBTITLES)]
Lines = Annotated[int, typer.Option(min=1, max=100, help="Lines per cue.", rich_help_panel=_SUBTITLES)]
Words = Annotated[
    int | None, typer.Option(min=1, help="Words per cue; as many as fit by default.", rich_help_panel=_SUBTITLES)
]
Highlight = Annotated[
    bool, typer.Option("--highlight-words", help="Underline each word as it is spoken.", rich_help_panel=_SUBTITLES)
]

_CLUSTER = "Cluster"
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on a Ray cluster: local, auto or HOST:PORT. One engine per GPU, else per --threads cores.",
        rich_help_panel=_CLUSTER,
    ),
]
Engines = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum number of engines; by default as many as fit.", rich_help_panel=_CLUSTER),
]


@dataclass(frozen=True)
class SubtitleOptions:
    """The shape of subtitles; see `asr.output.subtitles.SubtitleShape`."""

    max_line_width: LineWidth = SubtitleShape.max_line_width
    max_lines: Lines = SubtitleShape.max_lines
    max_words: Words = None
    highlight_words: Highlight = False


@dataclass(frozen=True)
class ContentOptions:
    """Content of a transcript."""

    word_timestamps: WordTimestamps = None
    style: StyleOption = "written"
    nbest: Nbest = 1
    keep_damaged: KeepDamaged = False
    language: Language = None
    track: TrackOption = None

    def check(self, formats: Sequence[str]) -> None:
        """Refuse content that these formats cannot hold, and unsupported languages."""
        if self.nbest > 1 and "json" not in formats:
            raise typer.BadParameter("alternatives are in json only: add --format json", param_hint="--nbest")
        if self.language is not None and self.language.lower() not in ("en", "english", "auto"):
            raise typer.BadParameter(f"{self.language} is not supported; the language is en", param_hint="--language")

    def timed(self, formats: Sequence[str]) -> bool:
        """Whether to time each word."""
        if self.word_timestamps is not None:
            return self.word_timestamps
        return {*formats} != {"txt"} or self.style == "written"  # punctuation also uses the pauses


@dataclass(frozen=True)
class OutputOptions:
    """Destination and formats of transcripts."""

    output_dir: OutputDir = None
    beside: Beside = False
    output: Output = None
    format_names: Format = None
    resume: Resume = False
    overwrite: Overwrite = False

    @property
    def to_stdout(self) -> bool:
        return self.output is None and self.output_dir is None and not self.beside

    def destination(self, sources: Sequence[str], subtitles: SubtitleOptions) -> Destination:
        """The destination and its formats, checked against each other and the sources."""
        from asr.archive.sinks import Destination

        places = {"--output-dir": self.output_dir, "--beside": self.beside, "--output": self.output}
        if len(chosen := [name for name, given in places.items() if given]) > 1:
            raise typer.BadParameter("there can be only one of these", param_hint=" and ".join(chosen))
        if self.overwrite and not self.beside:
            raise typer.BadParameter("it needs --beside", param_hint="--overwrite")
        is_rows = self.output is not None and self.output.suffix.lower() in ROW_SUFFIXES
        if self.resume and (self.to_stdout or (self.output and not is_rows)):
            problem = "it needs --output-dir, --beside or an --output of rows (.jsonl, .parquet)"
            raise typer.BadParameter(problem, param_hint="--resume")
        return Destination(
            rows=self.output if is_rows else None,
            file=None if is_rows else self.output,
            folder=self.output_dir,
            beside=self.beside,
            formats=self._row_format() if is_rows else self._formats(sources),
            shape=SubtitleShape(**asdict(subtitles)),
            resume=self.resume,
            overwrite=self.overwrite,
        )

    def _row_format(self) -> tuple[str, ...]:
        if self.format_names not in (None, "txt", "json"):
            raise typer.BadParameter("rows have the content of json; leave it out", param_hint="--format")
        return ("json",)

    def _formats(self, sources: Sequence[str]) -> tuple[str, ...]:
        """The formats of files or of standard output."""
        from asr.archive.sources import are_several

        with opt.usage("--output"):
            suffix = self._suffix(sources)
        with opt.usage("--format"):
            formats = parse_formats(self.format_names or suffix or "txt")
            if suffix is not None and formats != (suffix,):
                raise ConfigError(f"{self.format_names} differs from the extension of {self.output}; leave it out")
            if self.to_stdout and len(formats) > 1:
                raise ConfigError(f"several formats ({self.format_names}) need an --output-dir or --beside")
            if self.to_stdout and formats[0] not in ("txt", "json") and are_several(sources):
                raise ConfigError(f"{formats[0]} of several sources needs an --output-dir or --beside")
        return formats

    def _suffix(self, sources: Sequence[str]) -> str | None:
        """The format given by the name of --output."""
        from asr.archive.sources import are_several

        if self.output is None:
            return None
        suffix = self.output.suffix[1:].lower()
        if suffix not in FORMATS:
            endings = ", ".join(f".{name}" for name in (*FORMATS, *(one[1:] for one in ROW_SUFFIXES)))
            raise ConfigError(f"{self.output}: expected a name that ends in {endings}; for a folder use --output-dir")
        if are_several(sources):
            raise ConfigError(
                f"{self.output} holds one transcript; for several sources use --output-dir, --beside or a .jsonl file"
            )
        if self.output.exists() and Path(sources[0]).exists() and self.output.samefile(sources[0]):
            raise ConfigError(f"{self.output} is the source itself")
        return suffix


@dataclass(frozen=True)
class ClusterOptions:
    """The Ray cluster to work on, if any."""

    ray: Ray = None
    engines: Engines = None

    def check(self, sources: Sequence[str]) -> None:
        """Refuse options that contradict each other."""
        if self.ray is None and self.engines is not None:
            raise typer.BadParameter("it needs --ray", param_hint="--engines")
        if self.ray is not None and "-" in sources:
            raise typer.BadParameter("a cluster cannot read standard input", param_hint="--ray")


@grouped
def transcribe(
    sources: Sources,
    out: OutputOptions,
    content: ContentOptions,
    subtitles: SubtitleOptions,
    model: opt.ModelOptions,
    search: opt.SearchOptions,
    segments: opt.SegmentOptions,
    cluster: ClusterOptions,
    hotwords: opt.HotwordsOption = None,
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = 16,
    quiet: opt.Quiet = False,
) -> None:
    """Turn audio and video files into text and subtitles.

    Folders are searched with their subfolders. A file that cannot be read is reported in one line, and the others are
    still transcribed. On a cluster, every node needs the files, and a model folder, at the same path.

    Exit status: 0 if every file was transcribed, 1 if one failed, 2 for a usage error.

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe talk.mp4 -o talk.srt
      spellstream transcribe movies --beside --format srt
      spellstream transcribe recordings --output-dir texts --resume
      spellstream transcribe meeting.wav --hotwords "Nextcloud, Siobhán:1.5"
      arecord -d 5 -f S16_LE -r 16000 | spellstream transcribe -
      spellstream transcribe archive --ray auto --output archive.parquet --resume
    """
    from asr.archive import batch, sinks
    from asr.archive.sources import find

    cluster.check(sources)
    destination = out.destination(sources, subtitles)
    content.check(destination.formats)
    words = opt.hotwords_given(hotwords)
    show = not quiet and sys.stderr.isatty() and not (out.to_stdout and sys.stdout.isatty())
    report = not quiet and cluster.ray is not None

    with contextlib.ExitStack() as opened:
        # Unwritable destinations and missing files are reported before a model is loaded.
        with opt.extra("ray"), opt.usage("--output"):
            sink = sinks.open_sink(sources, destination)
        opened.enter_context(contextlib.closing(sink))
        for note in sink.notes if not quiet else ():
            say(note)
        there = batch.report_missing(sources, sink, resume=out.resume)
        totals = batch.Totals(failed=len(sources) - len(there))

        if there:
            loading(f"the model {model.model}", quiet)
            with opt.extra("ray"):
                transcriber = _transcriber(cluster, model, search, dtype, content.nbest, words)
                transcribe_many = partial(
                    opened.enter_context(transcriber),
                    segment=segments.settings(),
                    word_timestamps=content.timed(destination.formats),
                    batch_size=batch_size,
                    keep_damaged=content.keep_damaged,
                    track=content.track,
                    style=content.style,
                )

            total = sum(1 for _ in find(there)) if show or report else 0
            progress = opened.enter_context(Progress(total, show=show, line_seconds=60.0 if report else math.inf))
            totals += batch.run(transcribe_many, there, sink, progress, resume=out.resume)
            if report:
                say(progress.summary())

    if totals.failed and totals.total > 1:
        say(f"{totals.failed} of {totals.total} failed")
    raise typer.Exit(1 if totals.failed else 0)


@contextlib.contextmanager
def _transcriber(
    cluster: ClusterOptions,
    model: opt.ModelOptions,
    search: opt.SearchOptions,
    dtype: opt.DtypeName,
    nbest: int,
    hotwords: Hotwords | None,
) -> Iterator[Callable[..., Iterator[Outcome]]]:
    """`transcribe_many` of a recogniser, or of as many as fit on the cluster, with search settings and hotwords."""
    if cluster.ray is None:
        from asr.processes import Processes

        recogniser, config = opt.load(model, search, dtype=dtype, nbest=nbest)
        opt.spell(recogniser, hotwords, config)
        with Processes(recogniser) as processes:
            yield partial(recogniser.transcribe_many, search=config, hotwords=hotwords, processes=processes)
        return
    from asr.archive.cluster import Cluster, Setup
    from asr.files import absolute
    from asr.folders import find_lm

    # The model is loaded here only to check it and the settings before engines are started.
    checked, config = opt.load(replace(model, device="cpu"), search, dtype=dtype, nbest=nbest)
    opt.spell(checked, hotwords, config)
    # The engines have other working directories. A folder that only shares its name with a model was not loaded here.
    folder = absolute(model.model) if checked.folder == Path(model.model) else model.model
    local = model.lm is not None and Path(model.lm).is_dir() and find_lm(model.lm) == Path(model.lm)
    lm = absolute(model.lm) if model.lm and local else model.lm
    setup = Setup(folder, model.device, dtype, lm, model.threads or 1)
    with Cluster(cluster.ray, setup, cluster.engines) as engines:
        say(f"{engines.engines} engines on the cluster {cluster.ray} are loading the model")
        yield partial(engines.transcribe_many, search=config, hotwords=hotwords)
