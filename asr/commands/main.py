"""The `spellstream` command.

A failure is one line on standard error. Exit status: 0 success, 1 something failed, 2 wrong use, 130 interrupted.
Other packages add commands through entry points in the group `spellstream.commands`: functions that take `app`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from asr import __version__
from asr.commands import models
from asr.commands import options as opt
from asr.commands.evaluate import evaluate
from asr.commands.exporting import export_model
from asr.commands.groups import grouped
from asr.commands.importing import import_model
from asr.commands.publish import publish
from asr.commands.spelling import hint, understood
from asr.commands.transcribe import transcribe
from asr.errors import SpellstreamError
from asr.files import require_folder
from asr.terminal import STANDARD_OUTPUT, loading, say, say_warnings, write_output

__all__ = ["PLUGINS", "app", "main"]

PLUGINS = "spellstream.commands"
INTERRUPTED = 130  # 128 plus the number of the signal, as in shells
BROKEN_PIPE = 141

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    debug = "--debug" in takewhile(lambda argument: argument.startswith("-"), arguments)
    _replace_closed_streams()
    say_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        return _run(arguments)
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop}" if str(stop) else "interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the pipe's reader is gone
        _discard_output()
        return BROKEN_PIPE
    except (SpellstreamError, OSError) as error:
        if debug:
            raise
        name = getattr(error, "filename", None)
        say(error if name is None else f"{name}: {getattr(error, 'strerror', error)}")
        if name == STANDARD_OUTPUT:
            _discard_output()
        return 1


def _discard_output() -> None:
    """Discard what cannot be written. Without this, Python's flush on exit would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_closed_streams() -> None:
    """Give a stream that the caller closed (`>&-`) a substitute: messages are dropped, output is an error."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open to the end
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def _run(arguments: list[str]) -> int:
    # The base class of all usage errors has no public name.
    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])
    own = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if arguments[0] not in own:
        _add_plugins()
    command: Any = typer.main.get_command(app)
    arguments = _prepared(command, arguments)
    try:
        # Not `command()`, which reports errors and interrupts in its own way.
        with command.make_context("spellstream", arguments) as context:
            command.invoke(context)
        write_output()
    except typer.Exit as stop:
        write_output()
        return stop.exit_code
    except usage_error as error:
        say(_explained(error))
        return 2
    return 0


def _prepared(root: Any, arguments: list[str]) -> list[str]:
    """Prepare help texts, and return the arguments with our spelling of options.

    `help COMMAND` and `-h` mean `--help`.
    """
    for command in (root, *root.commands.values()):
        command.help = _flowing(command.help or "")
        help_option = command.get_help_option(command.context_class(command))
        for parameter in (help_option, *command.params):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""  # else Typer shows <bool> as if a value had to follow
    arguments = ["--help" if argument == "-h" else argument for argument in arguments]
    if arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    at = next((at for at, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    name = arguments[at].replace("_", "-") if at < len(arguments) else ""
    if name not in root.commands:
        return arguments
    command = root.commands[name]
    flags = _names([one for one in command.params if getattr(one, "is_flag", False)])
    return [*arguments[:at], name, *understood(arguments[at + 1 :], _names(command.params), flags)]


def _names(parameters: Sequence[Any]) -> list[str]:
    """The names of options, including `--no-…` of flags."""
    return [name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("-")]


def _explained(error: Any) -> str:
    """A usage error in one line, with a suggestion."""
    context = getattr(error, "ctx", None)
    where = f"(see {context.command_path if context else 'spellstream'} --help)"
    option = getattr(error, "option_name", None)
    if option is None or not hasattr(error, "possibilities"):
        reason = error.format_message().replace(": Value error, ", ": ")  # a prefix of some versions of typer
        return f"{reason} {where}"
    known = _names(context.command.params) if context else []
    advice = hint(option, known)
    return f"no such option: {option}{': ' if advice else ''}{advice} {where}"


def _flowing(text: str) -> str:
    """A help text with its paragraphs joined into lines that fill the terminal; indented lines stay as they are.

    Square brackets are escaped: Rich would take the extra in `pip install 'spellstream[onnx]'` for markup.
    """
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(text)).replace("[", r"\[")
    return text.replace("\n\n", "\n\n\n", 1)  # else Typer takes the indentation from the second paragraph


def _add_plugins() -> None:
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        try:
            entry.load()(app)
        except Exception as error:  # a broken plugin must not disable the other commands
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Speech to text, from files and microphones.

    For the options of a command: spellstream COMMAND --help

    Examples:
      spellstream transcribe talk.wav
      spellstream transcribe recordings --output-dir texts --format txt,srt
      spellstream listen
    """


app.command(rich_help_panel=opt.RECOGNITION)(transcribe)
app.command(rich_help_panel=opt.RECOGNITION)(evaluate)
models.register(app)
app.command("import", rich_help_panel=opt.MODELS)(import_model)
app.command("export", rich_help_panel=opt.MODELS)(export_model)
app.command(rich_help_panel=opt.MODELS)(publish)


# --- plot and info ----------------------------------------------------------------------------------------------------

PlotSource = Annotated[str, typer.Argument(metavar="FILE", help="Audio or video, or - for standard input.")]
Picture = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="PNG", help="Picture to write; FILE.png by default.")
]
InfoModel = Annotated[str | None, typer.Option(metavar="NAME", help="Also describe this model.")]


@app.command(rich_help_panel=opt.RECOGNITION)
@grouped
def plot(source: PlotSource, model: opt.ModelOptions, search: opt.SearchOptions, output: Picture = None) -> None:
    """Plot a recording: its spectrogram, the attention over time and the CTC head.

    Example:
      spellstream plot talk.wav --output talk.png
    """
    from asr.archive.sources import missing

    if (error := missing(source)) is not None:
        raise error
    name = "stdin" if source == "-" else Path(source).name
    picture = output or Path(f"{name}.png")
    require_folder(picture)
    loading(f"the model {model.model}")
    from asr.plot import plot as draw
    from asr.plot import require_matplotlib

    require_matplotlib()  # before the model is loaded
    recogniser, config = opt.load(model, search)
    draw(recogniser, source, picture, config)
    print(picture)


@app.command(rich_help_panel=opt.MODELS)
def info(model: InfoModel = None, as_json: opt.AsJson = False) -> None:
    """Show versions, devices and models.

    Examples:
      spellstream info
      spellstream info --model default --json
    """
    loading(f"the model {model}" if model else "PyTorch")
    from asr.commands import info as facts

    known = facts.gather() | ({"model": facts.model_facts(model)} if model else {})
    print(json.dumps(known, indent=2) if as_json else "\n".join(facts.lines(known)))
