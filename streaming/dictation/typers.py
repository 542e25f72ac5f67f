"""The programs that type into the focused window, and standard output as an alternative.

They get text on standard input, so that it is never parsed as an option, nor visible to other users in the list of
processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from asr.errors import DependencyError, DeviceError
from streaming.dictation.edits import Delete, Edit, Press, Type

__all__ = ["Typer", "TyperName", "find_typer"]

TyperName = Literal["auto", "xdotool", "wtype", "ydotool", "stdout"]
Call: TypeAlias = "tuple[list[str], str]"  # a command line, and its standard input

BASE_SECONDS, CHARACTER_SECONDS = 5.0, 0.1  # time limit for a program
DELETED_AT_ONCE = 200
_YDOTOOL_KEYS = {"Return": 28, "Tab": 15, "BackSpace": 14}  # linux/input-event-codes.h


class Typer(Protocol):
    """Carries out edits."""

    name: str
    corrects: bool

    def type(self, edits: Sequence[Edit]) -> None:
        """Carry out edits in order.

        Raises:
            DeviceError: the program failed or took too long.
        """


class Program:
    """A program that types.

    Args:
        name: the program.
        call: its command line and input for one edit.
    """

    corrects = True

    def __init__(self, name: str, call: Callable[[Edit], Call]) -> None:
        self.name, self._call = name, call

    def type(self, edits: Sequence[Edit]) -> None:
        for edit in edits:
            left = edit.count if isinstance(edit, Delete) else 0
            while left > DELETED_AT_ONCE:
                self._run(Delete(DELETED_AT_ONCE))
                left -= DELETED_AT_ONCE
            self._run(Delete(left) if left else edit)

    def _run(self, edit: Edit) -> None:
        command, text = self._call(edit)
        size = edit.count if isinstance(edit, Delete) else len(text)
        timeout = BASE_SECONDS + CHARACTER_SECONDS * size
        try:
            # In its own session, so that Ctrl-C in the terminal does not end it within a word.
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=timeout, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name} has not ended after {timeout:.0f} s") from None
        except OSError as error:
            raise DeviceError(f"{self.name} cannot be run: {error.strerror or error}") from error
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit status {done.returncode}"
            raise DeviceError(f"{self.name} failed: {said}")


class StandardOutput:
    """Standard output, without corrections; text deleted by "scratch that" is erased with backspaces."""

    name, corrects = "stdout", False

    def type(self, edits: Sequence[Edit]) -> None:
        erase = "\b \b" if sys.stdout.isatty() else "\b"
        for edit in edits:
            if isinstance(edit, Type):
                sys.stdout.write(edit.text)
            elif isinstance(edit, Press):
                sys.stdout.write({"Return": "\n", "Tab": "\t"}[edit.key])
            else:
                sys.stdout.write(erase * edit.count)
        sys.stdout.flush()


def _xdotool(edit: Edit) -> Call:
    if isinstance(edit, Type):
        # A character missing from the keyboard is mapped to a spare key, which programs notice with a delay.
        delay_ms = 2 if edit.text.isascii() else 20
        return ["xdotool", "type", "--clearmodifiers", "--delay", str(delay_ms), "--file", "-"], edit.text
    keys = ["BackSpace"] * edit.count if isinstance(edit, Delete) else [edit.key]
    return ["xdotool", "key", "--clearmodifiers", "--delay", "2", *keys], ""


def _wtype(edit: Edit) -> Call:
    if isinstance(edit, Type):
        return ["wtype", "-"], edit.text
    keys = ["BackSpace"] * edit.count if isinstance(edit, Delete) else [edit.key]
    return ["wtype", *(part for key in keys for part in ("-k", key))], ""


def _ydotool(edit: Edit) -> Call:
    if isinstance(edit, Type):
        if not edit.text.isascii():
            raise DeviceError(f"ydotool cannot type {_first_odd(edit.text)}: use wtype, or xdotool under X11")
        return ["ydotool", "type", "--file", "-"], edit.text
    keys = ["BackSpace"] * edit.count if isinstance(edit, Delete) else [edit.key]
    return ["ydotool", "key", *(f"{_YDOTOOL_KEYS[key]}:{down}" for key in keys for down in (1, 0))], ""


def _first_odd(text: str) -> str:
    return next(character for character in text if not character.isascii())


_CALLS: dict[str, Callable[[Edit], Call]] = {"xdotool": _xdotool, "wtype": _wtype, "ydotool": _ydotool}


def find_typer(name: TyperName = "auto", environment: Mapping[str, str] = os.environ) -> Typer:
    """The typer of that name or, for "auto", the one that fits the session.

    Raises:
        DependencyError: it is not installed, or there is no graphical session; the message gives advice.
    """
    if name == "stdout":
        return StandardOutput()
    if name != "auto":
        if shutil.which(name) is None:
            raise DependencyError(f"{name} is not installed: apt install {name}")
        return Program(name, _CALLS[name])

    if environment.get("WAYLAND_DISPLAY"):
        # The compositors of GNOME and KDE have no virtual keyboard for wtype.
        desktop = environment.get("XDG_CURRENT_DESKTOP", "").upper()
        fitting = ["ydotool"] if "GNOME" in desktop or "KDE" in desktop else ["wtype", "ydotool"]
    elif environment.get("DISPLAY"):
        fitting = ["xdotool"]
    else:
        raise DependencyError(
            "there is no graphical session to type into: neither WAYLAND_DISPLAY nor DISPLAY is set; "
            "--typer stdout prints instead"
        )
    for program in fitting:
        if shutil.which(program) is not None:
            return Program(program, _CALLS[program])
    raise DependencyError(f"{' or '.join(fitting)} is needed to type: apt install {fitting[0]}")
