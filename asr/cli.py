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
from asr.errors import DependencyError, SpellstreamError
from asr.formats import write_atomically
from asr.terminal import Progress, say

__all__ = ["PLUGINS", "app", "main"]

PLUGINS = "spellstream.commands"
INTERRUPTED = 130  # as a shell counts: 128 and the signal
BROKEN_PIPE = 141

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


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
        name = getattr(error, "filename", None)
        say(error if name is None else f"{name}: {getattr(error, 'strerror', error)}")
        return 1


def _run(arguments: list[str]) -> int:
    # What all kinds of wrong use have in common has no public name.
    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])
    own = {command.callback.__name__ for command in app.registered_commands if command.callback}
    if arguments[0] not in own:
        _add_plugins()
    command = typer.main.get_command(app)
    try:
        # Not `command()`, which would report errors and interrupts in ways of its own.
        with command.make_context("spellstream", arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except usage_error as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "spellstream")
        say(f"{cast(Any, error).format_message()} (see {where} --help)")
        return 2
    return 0


def _add_plugins() -> None:
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        try:
            entry.load()(app)
        except Exception as error:  # whatever is wrong with one, the others work
            say(f"the command {entry.name} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}")


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

    Each command tells more: spellstream COMMAND --help

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe recordings --output-dir texts --format txt,srt
    """


@app.command()
def transcribe(
    sources: opt.Sources,
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    dtype: opt.Dtype = opt.DtypeName.float32,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    batch_size: opt.BatchSize = 16,
    threads: opt.Threads = None,
    output_dir: opt.OutputDir = None,
    format_names: opt.Format = "txt",
    word_timestamps: opt.WordTimestamps = None,
    nbest: opt.Nbest = 1,
    resume: opt.Resume = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn audio and video files into text.

    Folders are searched to their depths. A file that cannot be read is named on standard error and the rest is done.

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe talk.mp4 --format srt > talk.srt
      spellstream transcribe recordings --output-dir texts --resume
      arecord -d 5 -f S16_LE -r 16000 | spellstream transcribe -
    """
    from asr import batch

    several = len(sources) > 1 or batch.is_folder(sources[0])
    to_files = output_dir is not None
    formats = opt.formats(format_names, to_files=to_files, several=several, resume=resume, nbest=nbest)
    if word_timestamps is None:
        word_timestamps = bool({"json", "srt", "vtt"} & {*formats})
    sink = batch.open_sink(sources, output_dir, formats, several=several)
    recogniser, search = opt.load(
        model, device, dtype, threads, beam_size=beam_size, ctc_weight=ctc_weight, lm_weight=lm_weight, nbest=nbest
    )
    show = not quiet and sys.stderr.isatty() and (to_files or not sys.stdout.isatty())
    with Progress(sum(1 for _ in batch.find(sources)) if show else 0, show=show) as progress:
        options = batch.Options(search, word_timestamps, batch_size, resume)
        tally = batch.run(recogniser, sources, sink, options, progress)
    _finish(tally.failed, tally.total)


def _finish(failed: int, total: int) -> None:
    if failed and total > 1:
        say(f"{failed} of {total} failed")
    raise typer.Exit(1 if failed else 0)


@app.command()
def evaluate(
    manifest: opt.Manifest,
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    dtype: opt.Dtype = opt.DtypeName.float32,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    batch_size: opt.BatchSize = 16,
    threads: opt.Threads = None,
    json_file: opt.JsonFile = None,
    worst: opt.Worst = 5,
    confusions: opt.Confusions = 0,
    corpora: opt.Corpora = None,
    limit: opt.Limit = None,
    quiet: opt.Quiet = False,
) -> None:
    """Count the errors in words and characters against what was said.

    Texts are compared in lower case and without punctuation; utterances without a text are left out.

    Examples:
      spellstream evaluate test.jsonl
      spellstream evaluate test.jsonl --corpus test-other --beam-size 1 --worst 20
      spellstream evaluate test.jsonl --json scores.json --confusions 10
    """
    from asr import evaluation

    selection = evaluation.select(manifest, corpora or (), limit)
    recogniser, search = opt.load(
        model, device, dtype, threads, beam_size=beam_size, ctc_weight=ctc_weight, lm_weight=lm_weight
    )
    with Progress(len(selection.rows), show=not quiet and sys.stderr.isatty(), unit="utterances") as progress:
        result = evaluation.run(recogniser, selection, progress, search=search, batch_size=batch_size)
    settings = {"model": model, **evaluation.settings(recogniser, search, batch_size)}
    if result.scored and json_file is not None:
        scores = json.dumps(evaluation.to_json(result, settings), indent=2, ensure_ascii=False) + "\n"
        sys.stdout.write(scores) if json_file == "-" else write_atomically(Path(json_file), scores)
    if result.scored and json_file != "-":
        evaluation.report(result, settings, title=manifest.name, worst=worst, confusions=confusions)
    _finish(result.failed, len(selection.rows))


@app.command()
def pack(
    manifests: opt.Manifests, output: opt.PackedOutput, workers: opt.Workers = 2, quiet: opt.Quiet = False
) -> None:
    """Decode corpora once, for training.

    Example:
      spellstream pack train.jsonl more.jsonl --output packed/train --workers 8
    """
    with _extra("train"):
        from asr.training.data import pack as pack_corpora

    with Progress(show=not quiet and sys.stderr.isatty(), unit="utterances") as progress:

        def advance(done: int, total: int) -> None:
            progress.total = total
            progress.advance()

        problems = pack_corpora(manifests, output, workers, advance)
    for problem in problems:
        say(problem)
    _finish(len(problems), progress.total)


@app.command()
def train(
    config: opt.Config,
    data: opt.Data,
    dev: opt.Dev,
    output: opt.RunOutput,
    noise: opt.Noise = None,
    max_minutes: opt.MaxMinutes = None,
    device: opt.Device = opt.DeviceName.auto,
) -> None:
    """Train a model, or go on with a run that was stopped.

    Example:
      spellstream train --config default.toml --data packed/train --dev packed/dev --output run
    """
    with _extra("train"):
        from asr.training.config import read_config
        from asr.training.run import train as train_model

        settings = read_config(config)
    print(train_model(settings, data, dev, output, noise, max_minutes, device.value))


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra to install where a package that comes with it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DependencyError(f"the package {package} is missing: pip install 'spellstream[{name}]'") from error


@app.command()
def plot(
    source: opt.PlotSource,
    output: opt.Picture = None,
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm_weight: opt.LmWeight = None,
    threads: opt.Threads = None,
) -> None:
    """Draw how a recording was understood: its spectrogram, attention over time, CTC.

    Example:
      spellstream plot talk.wav --output talk.png
    """
    from asr.plot import plot as draw

    recogniser, search = opt.load(
        model,
        device,
        opt.DtypeName.float32,
        threads,
        beam_size=beam_size,
        ctc_weight=ctc_weight,
        lm_weight=lm_weight,
    )
    name = "stdin" if source == "-" else Path(source).name
    draw(recogniser, source, output or Path(f"{name}.png"), search)


@app.command()
def info(model: opt.InfoModel = None, as_json: opt.AsJson = False) -> None:
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
