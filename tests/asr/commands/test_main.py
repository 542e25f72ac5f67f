"""The command with a stub recogniser: standard output, standard error and exit status."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import asr
from asr.commands.main import PLUGINS, app
from asr.errors import CheckpointError
from asr.training import finetune
from tests.support.commands import Command, StubRecogniser

COMMANDS = ("transcribe", "evaluate", "prepare", "statistics", "train", "plot", "info")


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_has_examples(arguments: list[str], command: Command) -> None:
    status, out, err = command(*arguments)
    assert (status, err) == (0, "")
    assert "Example" in out
    assert f"spellstream {arguments[0] if len(arguments) > 1 else 'transcribe'} " in out


def test_examples_in_help_are_valid(command: Command) -> None:
    """An example with a removed option fails for a newcomer."""
    command("--help")  # from here on, the commands of plugins are registered
    root: Any = typer.main.get_command(app)
    texts = [root.help, *(one.help for one in root.commands.values())]
    lines = [line for text in texts for line in text.splitlines() if re.match(r" {2}.*\bspellstream ", line)]
    assert len(lines) > 2 * len(root.commands) > 20
    for line in lines:
        name, *arguments = shlex.split(re.split(r"[|>]", line.partition("spellstream ")[2])[0])
        given = root.commands[name].make_context(name, arguments).params  # raises an error for wrong options
        if name == "finetune":
            finetune.settings(given["model"], given["settings"] or ())


@pytest.mark.parametrize("width", [50, 80, 120])
def test_help_fills_the_terminal(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Paragraphs broke where the source does, each second line short; examples lost their indentation."""
    monkeypatch.setenv("COLUMNS", str(width))
    prose = command("transcribe", "--help")[1].partition("text.")[2].partition("Examples:")[0]
    lines = [line.strip() for line in prose.strip().splitlines()]
    for line, following in itertools.pairwise(lines):
        assert len(f"{line} {following.split()[0]}") > width - 2
    assert "\n   spellstream devices" in command("devices", "--help")[1]


def test_help_names_the_extra_to_install(command: Command) -> None:
    """Rich parsed [onnx] as markup, and the help said pip install 'spellstream'."""
    assert "spellstream[onnx]" in command("export", "--help")[1]


def test_help_groups_the_commands(command: Command) -> None:
    out = command("--help")[1]
    groups = [out.index(name) for name in ("Speech to text", "Models", "Training")]
    assert groups == sorted(groups)
    assert groups[0] < out.index(" listen ") < groups[1] < out.index(" import ") < groups[2] < out.index(" finetune ")


def test_help_is_quick(repository_root: Path) -> None:
    """--help does not import slow modules."""
    code = (
        "import sys; from asr.commands.main import main; main(['transcribe', '--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository_root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_version(command: Command) -> None:
    assert command("--version") == (0, f"spellstream {asr.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["transcribe"], "Missing argument 'SOURCE"),
        (["transcribe", "a.wav", "--beam-size", "0"], "--beam-size"),
        (["transcribe", "a.wav", "--beam-size", "many"], "--beam-size"),
        (["transcribe", "a.wav", "--device", "abacus"], "--device"),
        (["transcribe", "a.wav", "--dtype", "float1"], "Invalid value for '--dtype': 'float1' is not one of"),
        (["transcribe", "a.wav", "--format", "doc"], "unknown format 'doc'"),
        (["transcribe", "a.wav", "--format", "txt,srt"], "several formats (txt,srt) need an --output-dir"),
        (["transcribe", "a.wav", "b.wav", "--format", "srt"], "srt of several sources needs an --output-dir"),
        (["transcribe", "a.wav", "--resume"], "--resume: it needs --output-dir"),
        (["transcribe", "a.wav", "--nbest", "3"], "--nbest: alternatives are in json only"),
        (["transcribe", "a.wav", "--no-such-option"], "--no-such-option"),
        (["transcribe", "a.wav", "--beside", "--output-dir", "x"], "there can be only one of these"),
        (["transcribe", "a.wav", "--overwrite"], "it needs --beside"),
        (
            ["transcribe", "a.wav", "-o", "out"],
            "out: expected a name that ends in .txt, .json, .srt",
        ),
        (["transcribe", "a.wav", "-o", "a.srt", "--format", "vtt"], "vtt differs from the extension of a.srt"),
        (["transcribe", "a.wav", "b.wav", "-o", "a.srt"], "a.srt holds one transcript; for several sources use"),
        (["transcribe", "a.wav", "-o", "a.srt", "--resume"], "--resume: it needs --output-dir, --beside or"),
        (["transcribe", "a.wav", "--max-lines", "0"], "--max-lines"),
        (["transcrib", "a.wav"], "No such command 'transcrib'"),
        (
            ["transcribe", "a.wav", "--beam-size", "1", "--lm-weight", "0.5"],
            "greedy search (a beam of 1) does not use it",
        ),
        (["evaluate", "test.jsonl", "--limit", "0"], "--limit"),
        (["train", "--config", "a.toml"], "Missing option"),
        (
            ["transcribe", "a.wav", "--nbest", "3", "--beam-size", "2", "--format", "json"],
            "search.nbest is 3: it must be in 1..beam_size (2)",
        ),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], says: str, command: Command, stub: StubRecogniser) -> None:
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("spellstream: ")
    assert err.count("\n") == 1
    assert says in err.replace("'--resume'", "--resume").replace("'--nbest'", "--nbest")
    assert "--help)" in err
    assert not stub.heard


def test_failures_are_one_line_and_debug_tells_more(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: str) -> None:
        raise CheckpointError("nowhere: neither a checkpoint folder\nnor a shipped model")

    monkeypatch.setattr(asr, "load", load)
    expected = (1, "", "spellstream: nowhere: neither a checkpoint folder nor a shipped model\n")
    assert command("transcribe", __file__, "--model", "nowhere") == expected
    with pytest.raises(CheckpointError):
        command("--debug", "transcribe", __file__)


def test_an_interrupt_is_one_line(command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = stub.outcome

    def interrupted(source: str) -> Any:
        if stub.heard:
            raise KeyboardInterrupt
        return outcome(source)

    monkeypatch.setattr(stub, "outcome", interrupted)
    status, out, err = command("transcribe", "a.wav", "b.wav", "c.wav")
    assert (status, out) == (130, "b.wav: b\nb.wav: again\n")
    assert err == "spellstream: interrupted: transcripts finished and kept: 1\n"


INTERRUPTED_IMPORT = """
import importlib.abc, os, signal, sys
class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.default_int_handler)
from asr.__main__ import main
sys.exit(main())
"""


def test_an_interrupt_while_modules_are_imported_is_quiet(repository_root: Path) -> None:
    """Ctrl-C in the first half second showed a traceback, and the exit status was not 130."""
    command = [sys.executable, "-c", INTERRUPTED_IMPORT]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert '\nspellstream = "asr.__main__:main"\n' in (repository_root / "pyproject.toml").read_text(encoding="utf-8")


INTERRUPTED_TORCH = """
import importlib.abc, os, signal, sys
class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch.distributed":
            os.kill(os.getpid(), signal.SIGINT)
        if name == "torch.testing":  # imported later
            print("went on")
sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.default_int_handler)
from asr.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("options", [(), ("--quiet",)], ids=["loud", "quiet"])
def test_an_interrupt_while_torch_is_imported_takes_effect_afterwards(
    repository_root: Path, options: tuple[str, ...]
) -> None:
    """Ctrl-C within the import of PyTorch sometimes ended with "terminate called after throwing an instance of…"."""
    command = [sys.executable, "-c", INTERRUPTED_TORCH, "transcribe", "recipes/sample.flac", *options]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "went on\n")
    assert done.stderr.splitlines()[-1] == "spellstream: interrupted"
    assert len(done.stderr.splitlines()) == 2 - len(options)


WAITING = """
import os, sys
from asr.__main__ import main
status = main()
print(os.environ["OMP_WAIT_POLICY"])
sys.exit(status)
"""


@pytest.mark.parametrize(("asked", "used"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_leave_the_core_to_others(repository_root: Path, asked: dict[str, str], used: str) -> None:
    """On a busy machine, spinning threads made a transcription twelve times slower than with one thread."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | asked
    command = [sys.executable, "-c", WAITING, "--version"]
    done = subprocess.run(command, cwd=repository_root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{used}\n")


PIPED = """
import sys
import asr
from tests.support import commands
asr.load = lambda *_: commands.StubRecogniser()
sys.exit(commands.main(["transcribe", "--quiet", *["recipes/sample.flac"] * 20_000]))
"""


def test_a_reader_that_goes_away_ends_it_quietly(repository_root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED], cwd=repository_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "recipes/sample.flac: sample\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("redirection", "says"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "spellstream: standard output: Bad file descriptor"),
        (">&- 2>&-", ""),
    ],
)
def test_output_that_cannot_be_written_is_one_line(redirection: str, says: str, repository_root: Path) -> None:
    """A closed standard output gave a traceback, and so did a message to a closed standard error."""
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    call = f"{shlex.quote(sys.executable)} -m asr --version {redirection}"
    process = subprocess.run(["sh", "-c", call], cwd=repository_root, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.count("\n") == bool(says)
    assert says in process.stderr


# --- further commands -------------------------------------------------------------------------------------------------


def install(monkeypatch: pytest.MonkeyPatch, **plugins: Callable[[typer.Typer], None]) -> None:
    """Pretend that distributions with these commands are installed."""
    module = types.ModuleType("plugins")
    entries = []
    for name, register in plugins.items():
        setattr(module, name, register)
        entries.append(importlib.metadata.EntryPoint(name, f"plugins:{name}", PLUGINS))
    monkeypatch.setitem(sys.modules, "plugins", module)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == PLUGINS else [])
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])


def test_other_packages_add_commands(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def recite(to: typer.Typer) -> None:
        to.command("recite")(lambda: print("listening"))

    def broken(to: typer.Typer) -> None:
        raise ImportError("no module named portaudio")

    install(monkeypatch, broken=broken, recite=recite)
    line = "spellstream: the command broken (plugins:broken) cannot be loaded: ImportError: no module named portaudio\n"
    assert command("recite") == (0, "listening\n", line)
    status, out, _ = command("--help")
    assert status == 0
    assert "recite" in out
    assert "transcribe" in out
    for own in ("info", "import"):  # "import" is not the name of its function
        assert command(own, "--help")[2] == ""


def test_further_commands_are_left_alone_where_not_needed(
    command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, broken=lambda to: pytest.fail("loaded"))
    assert command("transcribe", "a.wav") == (0, "a\nagain\n", "")
