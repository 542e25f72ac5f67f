"""The programs that type: choice, arguments and input, failures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from asr.errors import DependencyError, DeviceError
from streaming.dictation import typers
from streaming.dictation.edits import Delete, Edit, Press, Type
from streaming.dictation.typers import find_typer


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs, which record their arguments and input."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    return folder


def install(folder: Path, name: str, does: str = "") -> Path:
    log = folder.parent / f"{name}.log"
    script = f'#!/bin/sh\necho "$@" >> {log}\n/bin/cat >> {log}\n{does}\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return log


@pytest.mark.parametrize(
    ("installed", "environment", "expected"),
    [
        (["xdotool", "wtype"], {"DISPLAY": ":0"}, "xdotool"),
        (["xdotool", "wtype", "ydotool"], {"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, "wtype"),
        (["xdotool", "ydotool"], {"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, "ydotool"),
        (["wtype", "ydotool"], {"WAYLAND_DISPLAY": "w", "XDG_CURRENT_DESKTOP": "ubuntu:GNOME"}, "ydotool"),
    ],
)
def test_the_one_that_fits(installed: list[str], environment: dict[str, str], expected: str, programs: Path) -> None:
    for name in installed:
        install(programs, name)
    assert find_typer("auto", environment).name == expected


@pytest.mark.parametrize(
    ("name", "environment", "says"),
    [
        ("auto", {"DISPLAY": ":0"}, "xdotool is needed to type: apt install xdotool"),
        ("auto", {"WAYLAND_DISPLAY": "w"}, "wtype or ydotool is needed to type: apt install wtype"),
        ("auto", {"WAYLAND_DISPLAY": "w", "XDG_CURRENT_DESKTOP": "KDE"}, "^ydotool is needed to type"),
        ("auto", {}, "no graphical session to type into: .* --typer stdout"),
        ("wtype", {"DISPLAY": ":0"}, "wtype is not installed: apt install wtype"),
    ],
)
def test_what_to_install(name: typers.TyperName, environment: dict[str, str], says: str, programs: Path) -> None:
    with pytest.raises(DependencyError, match=says):
        find_typer(name, environment)


EDITS: list[Edit] = [Delete(2), Type("--x $(ls)"), Press("Return"), Type("a\\nb")]
GIVEN = {
    "xdotool": "key --clearmodifiers --delay 2 BackSpace BackSpace\n"
    "type --clearmodifiers --delay 2 --file -\n--x $(ls)key --clearmodifiers --delay 2 Return\n"
    "type --clearmodifiers --delay 2 --file -\na\\nb",
    "wtype": "-k BackSpace -k BackSpace\n-\n--x $(ls)-k Return\n-\na\\nb",
    "ydotool": "key 14:1 14:0 14:1 14:0\ntype --file -\n--x $(ls)key 28:1 28:0\ntype --file -\na\\nb",
}


@pytest.mark.parametrize("name", ["xdotool", "wtype", "ydotool"])
def test_text_is_data(name: typers.TyperName, programs: Path) -> None:
    log = install(programs, name)
    find_typer(name).type(EDITS)
    assert log.read_text() == GIVEN[name]


def test_many_deletions_in_several_calls(programs: Path) -> None:
    log = install(programs, "wtype")
    find_typer("wtype").type([Delete(2 * typers.DELETED_AT_ONCE + 1)])
    assert [line.count("BackSpace") for line in log.read_text().splitlines()] == [200, 200, 1]


def test_failures_are_named(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(programs, "xdotool", "echo 'no such\ndisplay' >&2; exit 3")
    with pytest.raises(DeviceError, match=r"^xdotool failed: no such display$"):
        find_typer("xdotool").type([Type("a")])
    install(programs, "wtype", "exit 3")
    with pytest.raises(DeviceError, match=r"^wtype failed: exit status 3$"):
        find_typer("wtype").type([Type("a")])
    monkeypatch.setattr(typers, "BASE_SECONDS", 0.2)
    install(programs, "xdotool", "exec /bin/sleep 20")
    with pytest.raises(DeviceError, match=r"^xdotool has not ended after 0 s$"):
        find_typer("xdotool").type([Type("a")])
    gone = find_typer("wtype")
    (programs / "wtype").unlink()
    with pytest.raises(DeviceError, match=r"^wtype cannot be run: No such file"):
        gone.type([Type("a")])


def test_ctrl_c_does_not_reach_it(programs: Path) -> None:
    """Ctrl-C in a terminal also ended the typing program, within a word."""
    code = "import os, sys; sys.exit(f'session {os.getsid(0)}')"
    (programs / "xdotool").write_text(f"#!{sys.executable}\n{code}\n")
    (programs / "xdotool").chmod(0o755)
    with pytest.raises(DeviceError, match=r"^xdotool failed: session \d+$") as failed:
        find_typer("xdotool").type([Type("a")])
    assert str(failed.value).split()[-1] != str(os.getsid(0))


def test_ydotool_types_ascii_alone(programs: Path) -> None:
    """The program ydotool silently skips characters other than ASCII, so they are refused."""
    install(programs, "ydotool")
    with pytest.raises(DeviceError, match="ydotool cannot type é"):
        find_typer("ydotool").type([Type("café")])


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    find_typer("stdout", {}).type([Type("ab"), Delete(1), Press("Return"), Press("Tab")])
    assert capsys.readouterr().out == "ab\b\n\t"
