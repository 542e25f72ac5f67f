"""`spellstream dictate`, added to the command as a plugin."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands import options as shared
from asr.commands.groups import grouped
from asr.errors import ConfigError, SpellstreamError
from asr.terminal import say
from asr.writing.parts import Style
from streaming.commands import listen_options as opt
from streaming.commands.options import StreamOptions, make_engine
from streaming.dictation.typers import TyperName

if TYPE_CHECKING:
    from streaming.dictation.running import Lock
    from streaming.dictation.table import Table
    from streaming.dictation.typers import Typer

__all__ = ["register"]

_DICTATION = "Dictation"
_CONTROL = "Control of the running dictation"


TyperOption = Annotated[
    TyperName,
    typer.Option(
        "--typer",
        help="Program that types. auto: the one that fits the session; stdout: print the text instead.",
        rich_help_panel=_DICTATION,
    ),
]
StyleOption = Annotated[
    Style,
    typer.Option(
        help="written: with capitals, punctuation and digits; spoken: only marks that are spoken.",
        rich_help_panel=_DICTATION,
    ),
]
Commands = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Your own spoken commands (TOML), on top of those in ~/.config/spellstream/dictation.toml.",
        rich_help_panel=_DICTATION,
    ),
]
ShowCommands = Annotated[
    bool, typer.Option("--list-commands", help="List the spoken commands and exit.", rich_help_panel=_DICTATION)
]
Corrections = Annotated[
    bool,
    typer.Option(
        "--corrections/--no-corrections",
        help="Type words as soon as they are committed, and correct marks and numbers at the end of the utterance; or "
        "type only finished utterances.",
        rich_help_panel=_DICTATION,
    ),
]
Notify = Annotated[
    bool,
    typer.Option(
        "--notify", help="Also show messages as desktop notifications (notify-send).", rich_help_panel=_DICTATION
    ),
]
Toggle = Annotated[
    bool,
    typer.Option(
        "--toggle",
        help="Pause or resume the dictation; if none runs, start one in the background.",
        rich_help_panel=_CONTROL,
    ),
]
Stop = Annotated[bool, typer.Option("--stop", help="End the dictation after its last words.", rich_help_panel=_CONTROL)]
Status = Annotated[
    bool,
    typer.Option(
        "--status",
        help="Report whether a dictation runs and listens; exit status 1 if none runs.",
        rich_help_panel=_CONTROL,
    ),
]
LockFd = Annotated[int | None, typer.Option(hidden=True)]


@dataclass(frozen=True)
class DictateOptions:
    """How to type, and control of the running dictation."""

    typer_name: TyperOption = "auto"
    commands: Commands = None
    style: StyleOption = "written"
    list_commands: ShowCommands = False
    corrections: Corrections = True
    notify: Notify = False
    toggle: Toggle = False
    stop: Stop = False
    status: Status = False
    lock_fd: LockFd = None  # from `--toggle`, which took the lock for the process that it starts

    def check(self, source: opt.SourceOptions) -> None:
        """Refuse options that contradict each other.

        Raises:
            typer.BadParameter: names the options.
        """
        named = {"--toggle": self.toggle, "--stop": self.stop, "--status": self.status}
        if len(chosen := [name for name, given in named.items() if given]) > 1:
            raise typer.BadParameter("only one of these at a time", param_hint=" and ".join(chosen))
        if self.toggle and self.typer_name == "stdout":
            raise typer.BadParameter("a dictation in the background has no standard output", param_hint="--typer")
        if self.toggle and source.stdin:
            raise typer.BadParameter("a dictation in the background has no standard input", param_hint="--stdin")

    def tools(self) -> tuple[Typer, Table]:
        """The typer, and the spoken commands.

        Raises:
            ConfigError: a table is wrong.
            DependencyError: there is nothing to type with.
        """
        from streaming.dictation.table import load
        from streaming.dictation.typers import find_typer

        table = load(self.commands)
        return find_typer(self.typer_name), table


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(rich_help_panel=shared.RECOGNITION)(dictate)


@grouped
def dictate(
    source: opt.SourceOptions,
    model: opt.ListenModelOptions,
    streams: StreamOptions,
    dictation: DictateOptions,
    lm_weight: shared.LmWeight = None,
    hotwords: shared.HotwordsOption = None,
) -> None:
    """Type what is said into the focused window.

    Some spoken commands: comma, full stop, question mark, open quote, new line, new paragraph, scratch that, caps on;
    --list-commands lists all. "Literal comma" and "the comma" type the word "comma".
    Text is typed by xdotool (X11), wtype or ydotool (Wayland).
    SIGUSR1 pauses and resumes the dictation; the microphone is closed while paused. Ctrl-C or SIGTERM ends it after the
    last words.

    Examples:
      spellstream dictate
      spellstream dictate --input-device usb --commands mine.toml --hotwords names.txt
      spellstream dictate --file letter.wav --speed 0 --typer stdout
      spellstream dictate --toggle --notify

    A desktop shortcut to start, pause and resume:
      GNOME: Settings, Keyboard, Custom Shortcuts: spellstream dictate --toggle --notify
      KDE:   System Settings, Shortcuts, Add Command: spellstream dictate --toggle --notify
      sway:  bindsym $mod+d exec spellstream dictate --toggle
    """
    dictation.check(source)
    if dictation.list_commands:
        _list_commands(dictation.commands)
        return
    if dictation.stop or dictation.status:
        _control(dictation)
        return
    source.check()
    words = shared.hotwords_given(hotwords)

    def notify(message: str) -> None:
        say(message)
        _show(dictation.notify, message)

    def run(lock: Lock, typing: Typer, table: Table) -> None:
        from streaming.dictation.switch import Switch

        with Switch() as switch:
            lock.write(os.getpid(), "starting")
            say(f"loading the model {model.model}")
            from streaming.dictation.run import dictate as until_it_ends
            from streaming.dictation.units import said
            from streaming.listener import Listener

            engine = make_engine(model, lm_weight, streams, streams.config("spoken"), words)
            writer = engine.recogniser.writer if dictation.style == "written" else None
            until_it_ends(
                lambda opened: said(Listener(engine, opened, hotwords=words, notify=notify), writer, words),
                source.open,
                typing,
                table,
                switch,
                corrections=dictation.corrections,
                notify=notify,
                tell=lambda state: lock.write(os.getpid(), state),
            )
            notify("dictation has ended")

    try:
        _start_or_toggle(dictation, source, run)
    except SpellstreamError as error:
        _show(dictation.notify, str(error))  # nobody sees the standard error of a shortcut
        raise


def _control(dictation: DictateOptions) -> None:
    """Carry out `--stop` or `--status`."""
    from streaming.dictation.running import running

    one = running()
    if dictation.status:
        sys.stdout.write(f"{one.state}, process {one.pid}\n" if one else "not running\n")
        if one is None:
            raise typer.Exit(1)
    elif one is None:
        raise ConfigError("no dictation is running")
    else:
        one.send(signal.SIGTERM)


def _start_or_toggle(
    dictation: DictateOptions, source: opt.SourceOptions, run: Callable[[Lock, Typer, Table], None]
) -> None:
    """Run a dictation here or in the background; if one runs, toggle it."""
    from streaming.dictation.running import Lock, running

    lock = Lock.take() if dictation.lock_fd is None else Lock(dictation.lock_fd)
    if lock is None:
        one = running()
        if not dictation.toggle:
            which = f" (process {one.pid})" if one else ""
            raise ConfigError(
                f"a dictation is already running{which}: spellstream dictate --toggle pauses it, --stop ends it"
            )
        if one is not None:
            one.send(signal.SIGUSR1)
        return
    try:
        typing, table = dictation.tools()
        source.find()
        if dictation.toggle:
            _start(lock)
        else:
            run(lock, typing, table)
    finally:
        lock.close()


def _start(lock: Lock) -> None:
    """Start the same command in the background; it inherits the lock."""
    from streaming.dictation.running import deferred, folder

    log = folder() / "dictate.log"
    arguments = [argument for argument in sys.argv[1:] if argument != "--toggle"]
    command = [sys.executable, "-m", "asr", *arguments, "--lock-fd", str(lock.fd)]
    os.set_inheritable(lock.fd, True)
    with log.open("wb") as file, deferred(signal.SIGUSR1):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, pass_fds=[lock.fd]
        )
        lock.write(process.pid, "starting")
    process.returncode = 0  # it outlives this process: no warning about that
    say(f"dictation starts in the background, process {process.pid}; its log is {log}")


def _show(wanted: bool, message: str) -> None:
    """Show a desktop notification, if it is wanted and possible."""
    if wanted and (program := shutil.which("notify-send")):
        command = [program, "--app-name=Spellstream", "--", "Spellstream", message]
        try:
            subprocess.run(command, capture_output=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"notify-send: {error}")


def _list_commands(path: Path | None) -> None:
    from streaming.dictation.table import load

    table = load(path)
    for words, command in table.commands.items():
        does = repr(command.text) if command.action is None else command.action
        sys.stdout.write(f"{' '.join(words):20} {does}\n")
    sys.stdout.write(f"{table.literal} …            the words of a command\n")
