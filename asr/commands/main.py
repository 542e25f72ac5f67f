"""The `spellstream` command.

Failures are one line on standard error. Exit status: 0 all is done, 1 something failed, 2 wrong use, 130 interrupted.
Other packages add commands through entry points of the group `spellstream.commands`: a function that is given `app`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from asr import __version__
from asr.commands import options as opt
from asr.errors import SpellstreamError
from asr.files import write_atomically
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
    for one in (command, *getattr(command, "commands", {}).values()):
        one.help = _flowing(one.help or "")
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


def _flowing(text: str) -> str:
    """A help text whose paragraphs fill the terminal; indented lines, as of examples, stay as they are."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(text))
    return text.replace("\n\n", "\n\n\n", 1)  # else Typer takes the indentation from the paragraph after the first


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
    lm: opt.Lm = None,
    lm_weight: opt.LmWeight = None,
    batch_size: opt.BatchSize = 16,
    threads: opt.Threads = None,
    output_dir: opt.OutputDir = None,
    format_names: opt.Format = "txt",
    output: opt.Output = None,
    word_timestamps: opt.WordTimestamps = None,
    nbest: opt.Nbest = 1,
    resume: opt.Resume = False,
    keep_damaged: opt.KeepDamaged = False,
    quiet: opt.Quiet = False,
    ray: opt.Ray = None,
    engines: opt.Engines = None,
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

    opt.check_cluster(ray, engines, sources)
    formats = opt.formats(
        format_names, sources, to_files=bool(output_dir), to_rows=bool(output), resume=resume, nbest=nbest
    )
    if word_timestamps is None:
        word_timestamps = bool({"json", "srt", "vtt"} & {*formats})
    show = not quiet and sys.stderr.isatty() and bool(output_dir or output or not sys.stdout.isatty())
    tell = not quiet and ray is not None
    with contextlib.ExitStack() as opened:
        with opt.extra("ray"), opt.usage("--output"):
            sink = sinks.open_sink(sources, output, output_dir, formats, resume=resume)
        opened.enter_context(contextlib.closing(sink))
        chosen: dict[str, Any] = {
            "beam_size": beam_size,
            "ctc_weight": ctc_weight,
            "lm": lm,
            "lm_weight": lm_weight,
            "nbest": nbest,
        }
        found = opt.transcriber(ray, engines, model, device, dtype, threads, **chosen)
        with opt.extra("ray"):
            transcriber, search = opened.enter_context(found)
        total = sum(1 for _ in find(sources)) if show or tell else 0
        progress = opened.enter_context(Progress(total, show=show, line_seconds=60.0 if tell else math.inf))
        options = batch.Options(search, word_timestamps, batch_size, resume, keep_damaged)
        totals = batch.run(transcriber, sources, sink, options, progress)
    if tell:
        say(progress.summary())
    _finish(totals.failed, totals.total)


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
    lm: opt.Lm = None,
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

    Texts are compared in lower case and without punctuation; utterances without one, or with digits or another script
    in it, are left out and counted.

    Examples:
      spellstream evaluate test.jsonl
      spellstream evaluate test.jsonl --corpus test-other --beam-size 1 --worst 20
      spellstream evaluate test.jsonl --json scores.json --confusions 10
    """
    from asr.commands import evaluation

    selection = evaluation.select(manifest, corpora or (), limit)
    recogniser, search = opt.load(
        model, device, threads, dtype=dtype, beam_size=beam_size, ctc_weight=ctc_weight, lm=lm, lm_weight=lm_weight
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
def plot(
    source: opt.PlotSource,
    output: opt.Picture = None,
    model: opt.ModelName = "default",
    device: opt.Device = opt.DeviceName.auto,
    beam_size: opt.BeamSize = None,
    ctc_weight: opt.CtcWeight = None,
    lm: opt.Lm = None,
    lm_weight: opt.LmWeight = None,
    threads: opt.Threads = None,
) -> None:
    """Draw how a recording was understood: its spectrogram, attention over time, CTC.

    Example:
      spellstream plot talk.wav --output talk.png
    """
    from asr.plot import plot as draw

    recogniser, search = opt.load(
        model, device, threads, beam_size=beam_size, ctc_weight=ctc_weight, lm=lm, lm_weight=lm_weight
    )
    name = "stdin" if source == "-" else Path(source).name
    picture = output or Path(f"{name}.png")
    draw(recogniser, source, picture, search)
    print(picture)


@app.command()
def info(model: opt.InfoModel = None, as_json: opt.AsJson = False) -> None:
    """Show versions, devices and models.

    Examples:
      spellstream info
      spellstream info --model default --json
    """
    from asr.commands import info as facts

    known = facts.gather() | ({"model": facts.model_facts(model)} if model else {})
    print(json.dumps(known, indent=2) if as_json else "\n".join(facts.lines(known)))
