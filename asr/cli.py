"""The `spellstream` command.

Failures are one line on standard error. Exit status: 0 all is done, 1 something failed, 2 wrong use, 130 interrupted.
Other packages add commands through entry points of the group `spellstream.commands`: a function that is given `app`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from asr import __version__
from asr import options as opt
from asr.errors import ConfigError, DependencyError, SpellstreamError
from asr.formats import FORMATS, parse_formats, write_atomically
from asr.terminal import Progress, say

__all__ = ["PLUGINS", "app", "main"]

PLUGINS = "spellstream.commands"
INTERRUPTED = 130  # as a shell counts: 128 and the signal
BROKEN_PIPE = 141

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

ExistingFolder = typer.Option(exists=True, file_okay=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    debug = "--debug" in takewhile(lambda argument: argument.startswith("-"), arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what cannot be encoded
    try:
        return _run(arguments)
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop}" if str(stop) else "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read along has gone. Without this, Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (SpellstreamError, OSError) as error:
        if debug:
            raise
        say(error)
        return 1


def _run(arguments: list[str]) -> int:
    # The error that all kinds of wrong use share has no public name.
    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])
    if arguments[0] not in {command.callback.__name__ for command in app.registered_commands if command.callback}:
        _add_plugins()
    command = typer.main.get_command(app)
    try:
        # Not `command()`, which would report errors in its own ways.
        with command.make_context("spellstream", arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except usage_error as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "spellstream"
        say(f"{cast(Any, error).format_message()} (see {path} --help)")
        return 2
    return 0


def _add_plugins() -> None:
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        try:
            entry.load()(app)
        except Exception as error:  # whatever is wrong with one, the others work
            say(f"the command {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"spellstream {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Speech to text, from files and microphones.

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe recordings --output-dir texts --format txt,srt
      spellstream COMMAND --help
    """


@app.command()
def transcribe(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="A file, a folder, or - for standard input.")],
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    dtype: opt.Dtype = opt.DtypeName.float32,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    batch_size: opt.BatchSize = 16,
    threads: opt.Threads = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write DIR/NAME.wav.txt, as folders go; else to standard output.", metavar="DIR")
    ] = None,
    format_names: Annotated[
        str, typer.Option("--format", help=f"Of {', '.join(FORMATS)}, one or more with commas; or all.")
    ] = "txt",
    word_timestamps: Annotated[
        bool | None,
        typer.Option("--word-timestamps/--no-word-timestamps", help="Time each word. On for json, srt and vtt."),
    ] = None,
    nbest: Annotated[int, typer.Option(min=1, max=256, help="Alternatives of each segment, in json.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what is in the output folder already.")] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn audio and video files into text.

    Folders are searched through. What cannot be read is named on standard error, the rest is done, and the exit status is 1.

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe talk.mp4 --format srt > talk.srt
      spellstream transcribe recordings --output-dir texts --format txt,json --resume
      ffmpeg -i URL -f wav - | spellstream transcribe -
    """
    from asr import batch

    several = len(sources) > 1 or batch.is_folder(sources[0])
    with opt.usage("--format"):
        formats = parse_formats(format_names)
        if output_dir is None and len(formats) > 1:
            raise ConfigError(f"{format_names}: several formats need an --output-dir")
        if output_dir is None and several and formats[0] not in ("txt", "json"):
            raise ConfigError(f"{formats[0]} of several sources needs an --output-dir")
    if resume and output_dir is None:
        raise typer.BadParameter("needs an --output-dir", param_hint="--resume")
    if nbest > 1 and "json" not in formats:
        raise typer.BadParameter("needs json among the formats, which alone shows them", param_hint="--nbest")

    sink: batch.Sink = batch.StandardOutput(formats[0], several)
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        sink = batch.OutputFolder(output_dir, sources, formats)
    recogniser = opt.load(model, device, dtype, threads)
    search = opt.search_config(recogniser, beam_size, ctc_weight, lm_weight, nbest)
    show = not quiet and sys.stderr.isatty() and (output_dir is not None or not sys.stdout.isatty())
    with Progress(sum(1 for _ in batch.find(sources)) if show else 0, show=show) as progress:
        tally = batch.run(
            recogniser,
            sources,
            sink,
            progress,
            search=search,
            word_timestamps=bool({"json", "srt", "vtt"} & {*formats}) if word_timestamps is None else word_timestamps,
            batch_size=batch_size,
            resume=resume,
        )
    _finish(tally.failed, tally.total)


def _finish(failed: int, total: int) -> None:
    if failed and total > 1:
        say(f"{failed} of {total} failed")
    raise typer.Exit(1 if failed else 0)


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON lines: id, audio, duration, text.")],
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    dtype: opt.Dtype = opt.DtypeName.float32,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    batch_size: opt.BatchSize = 16,
    threads: opt.Threads = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write all scores; - in place of the table.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Show so many of the worst utterances, aligned.")] = 5,
    confusions: Annotated[int, typer.Option(min=0, help="Show so many of the most frequent errors.")] = 0,
    corpus: Annotated[list[str] | None, typer.Option(help="Only this corpus; may be given again.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Count word and character errors against what was said.

    Texts are compared in lower case without punctuation; utterances without a text are left out.

    Examples:
      spellstream evaluate test.jsonl
      spellstream evaluate test.jsonl --corpus test-other --beam-size 1 --worst 20
      spellstream evaluate test.jsonl --json scores.json --confusions 10
    """
    from asr import evaluation
    from asr.config import to_dict

    selection = evaluation.select(manifest, corpus or (), limit)
    recogniser = opt.load(model, device, dtype, threads)
    search = opt.search_config(recogniser, beam_size, ctc_weight, lm_weight)
    show = not quiet and sys.stderr.isatty()
    with Progress(len(selection.utterances), show=show, unit="utterances") as progress:
        result = evaluation.run(recogniser, selection, progress, search=search, batch_size=batch_size)
    settings = {
        "spellstream": __version__,
        "model": model,
        "device": recogniser.device.type,
        "dtype": dtype.value,
        "batch_size": batch_size,
        "threads": threads or "default",
        "search": to_dict(search),
    }
    if json_file is not None:
        text = json.dumps(evaluation.to_json(result, settings), indent=2, ensure_ascii=False) + "\n"
        write_atomically(Path("/dev/stdout" if json_file == "-" else json_file), text)
    if json_file != "-":
        evaluation.report(_console(), result, settings, title=manifest.name, worst=worst, confusions=confusions)
    _finish(result.failed, len(selection.utterances))


def _console() -> Any:
    from rich.console import Console

    # In a file or pipe, lines are as long as they need be.
    return Console() if sys.stdout.isatty() else Console(width=200)


@app.command()
def pack(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST", help="JSON lines: id, audio, duration, text.")],
    output: Annotated[Path, typer.Option(help="The folder for the packed corpus.", metavar="DIR")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
    quiet: opt.Quiet = False,
) -> None:
    """Decode corpora once, for training.

    Example:
      spellstream pack train.jsonl more.jsonl --output packed/train --workers 8
    """
    with _extra("train"):
        from asr.training.data import pack as pack_corpora

    show = not quiet and sys.stderr.isatty()
    bar: list[Progress] = []
    total = 0

    with contextlib.ExitStack() as stack:

        def progress(done: int, of: int) -> None:
            nonlocal total
            total = of
            if not bar:
                bar.append(stack.enter_context(Progress(of, show=show, unit="utterances")))
            bar[0].advance()

        problems = pack_corpora(manifests, output, workers, progress)
    for problem in problems:
        say(problem)
    _finish(len(problems), total)


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="The run's settings, TOML.", metavar="FILE")],
    data: Annotated[Path, typer.Option(help="A packed corpus to learn from.", metavar="DIR")],
    dev: Annotated[Path, typer.Option(help="A packed corpus to choose the best model by.", metavar="DIR")],
    output: Annotated[Path, typer.Option(help="The run's folder; a run found there goes on.", metavar="DIR")],
    noise: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Recordings of background noise.", metavar="DIR")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long, ready to go on.")] = None,
    device: opt.Device = opt.DeviceName.auto,
) -> None:
    """Train a model, or go on with a run that was stopped.

    Example:
      spellstream train --config default.toml --data packed/train --dev packed/dev --output run
    """
    with _extra("train"):
        from asr.training.config import read_config
        from asr.training.run import train as train_model

    print(train_model(read_config(config), data, dev, output, noise, max_minutes, device.value))


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra to install when a package that it brings is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DependencyError(f"the package {error.name} is missing: pip install 'spellstream[{name}]'") from error


@app.command()
def plot(
    source: Annotated[str, typer.Argument(metavar="FILE", help="An audio or video file, or - for standard input.")],
    output: Annotated[Path | None, typer.Option(help="The picture; FILE.png here if not given.", metavar="PNG")] = None,
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    threads: opt.Threads = None,
) -> None:
    """Draw how a recording was understood: spectrogram, attention over time, CTC.

    Example:
      spellstream plot talk.wav --output talk.png
    """
    from asr.plot import plot as draw

    name = "stdin" if source == "-" else Path(source).name
    recogniser = opt.load(model, device, opt.DtypeName.float32, threads)
    search = opt.search_config(recogniser, beam_size, ctc_weight, lm_weight)
    draw(recogniser, source, output or Path(f"{name}.png"), search)


@app.command()
def info(
    model: Annotated[str | None, typer.Option(help="Also tell about this model.", metavar="NAME")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show versions, devices and models.

    Examples:
      spellstream info
      spellstream info --model default --json
    """
    from asr import info as facts

    known = facts.gather() | ({"model": facts.model_facts(model)} if model else {})
    print(json.dumps(known, indent=2) if as_json else "\n".join(facts.lines(known)))


if __name__ == "__main__":
    sys.exit(main())
