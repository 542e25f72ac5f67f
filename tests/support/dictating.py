"""A fake typing program with its window, and the command's entry point if it is not installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

XDOTOOL = """#!{python}
import pathlib, sys
field, broken = pathlib.Path({field!r}), pathlib.Path({broken!r})
text = field.read_text() if field.exists() else ""
with field.with_name("calls").open("a") as calls:
    calls.write("x")
if broken.exists():
    sys.exit("it is broken")
if sys.argv[1] == "type":
    text += sys.stdin.read()
for key in sys.argv[5:] if sys.argv[1] == "key" else ():
    text = text[:-1] if key == "BackSpace" else text + {{"Return": "\\n", "Tab": "\\t"}}[key]
field.write_text(text)
"""


@dataclass(frozen=True)
class Screen:
    """The text field of a fake `xdotool` in `folder`."""

    folder: Path

    @property
    def text(self) -> str:
        path = self.folder / "field"
        return path.read_text() if path.exists() else ""

    @property
    def calls(self) -> int:
        return len((self.folder / "calls").read_text())

    def clear(self) -> None:
        for name in ("field", "calls"):
            (self.folder / name).unlink(missing_ok=True)

    def break_it(self) -> None:
        """From here on, the program fails."""
        (self.folder / "broken").touch()


def fake_typer(folder: Path) -> Screen:
    """Install the fake program."""
    made = Screen(folder / "bin")
    made.folder.mkdir()
    program = made.folder / "xdotool"
    paths = {"field": str(made.folder / "field"), "broken": str(made.folder / "broken")}
    program.write_text(XDOTOOL.format(python=sys.executable, **paths))
    program.chmod(0o755)
    return made


def plugin(folder: Path) -> Path:
    """A folder for PYTHONPATH that makes `dictate` a command, also where an earlier version is installed."""
    found = folder / "plugin" / "dictate-0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: dictate\nVersion: 0\n")
    (found / "entry_points.txt").write_text("[spellstream.commands]\ndictation = streaming.commands.dictate:register\n")
    return found.parent
