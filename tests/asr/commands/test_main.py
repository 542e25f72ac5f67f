"""The command: what goes to standard output and standard error, and the exit status, with a stub for a recogniser."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
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
from asr.commands.options import DtypeName
from asr.config import ModelConfig
from asr.errors import CheckpointError
from asr.training import finetune
from tests.support.archive import below, files
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
    """Options come and go; an example that names one which is gone fails at a newcomer's first try."""
    command("--help")  # commands of plugins are there from now on
    root: Any = typer.main.get_command(app)
    texts = [root.help, *(one.help for one in root.commands.values())]
    lines = [line for text in texts for line in text.splitlines() if re.match(r" {2}.*\bspellstream ", line)]
    assert len(lines) > 2 * len(root.commands) > 20
    for line in lines:
        name, *arguments = shlex.split(re.split(r"[|>]", line.partition("spellstream ")[2])[0])
        given = root.commands[name].make_context(name, arguments).params  # raises what is wrong with them
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


def test_help_is_quick(repository_root: Path) -> None:
    """None of what is slow to import is needed to show it."""
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
        (["transcribe", "a.wav", "--dtype", "float1"], "--dtype"),
        (["transcribe", "a.wav", "--format", "doc"], "unknown format 'doc'"),
        (["transcribe", "a.wav", "--format", "txt,srt"], "several formats (txt,srt) need an --output-dir"),
        (["transcribe", "a.wav", "b.wav", "--format", "srt"], "srt of several sources needs an --output-dir"),
        (["transcribe", "a.wav", "--resume"], "--resume: it needs an --output-dir"),
        (["transcribe", "a.wav", "--nbest", "3"], "--nbest: alternatives are shown in json alone"),
        (["transcribe", "a.wav", "--no-such-option"], "--no-such-option"),
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
    assert command("transcribe", "a.wav", "--model", "nowhere") == expected
    with pytest.raises(CheckpointError):
        command("--debug", "transcribe", "a.wav")


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


PIPED = """
import sys
import asr
from tests.support import commands
asr.load = lambda *_: commands.StubRecogniser()
sys.exit(commands.main(["transcribe", *(f"{n}.wav" for n in range(20_000))]))
"""


def test_a_reader_that_goes_away_ends_it_quietly(repository_root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED], cwd=repository_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1.wav: 1\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


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
    def dictate(to: typer.Typer) -> None:
        to.command("dictate")(lambda: print("listening"))

    def broken(to: typer.Typer) -> None:
        raise ImportError("no module named portaudio")

    install(monkeypatch, broken=broken, dictate=dictate)
    line = "spellstream: the command broken (plugins:broken) cannot be loaded: ImportError: no module named portaudio\n"
    assert command("dictate") == (0, "listening\n", line)
    status, out, _ = command("--help")
    assert status == 0
    assert "dictate" in out
    assert "transcribe" in out


def test_further_commands_are_left_alone_where_not_needed(
    command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, broken=lambda to: pytest.fail("loaded"))
    assert command("transcribe", "a.wav") == (0, "a\nagain\n", "")


# --- transcribe -------------------------------------------------------------------------------------------------------


def test_transcribe_to_standard_output(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "talk.wav") == (0, "talk\nagain\n", "")
    assert stub.asked["load"] == ("default", "auto", "float32", None)
    assert stub.asked["search"] == ModelConfig(vocab_size=40).search
    assert (stub.asked["word_timestamps"], stub.asked["batch_size"]) == (False, 16)


def test_transcribe_passes_options_on(command: Command, stub: StubRecogniser) -> None:
    options = "--model m --device cpu --dtype bfloat16 --beam-size 3 --nbest 2 --ctc-weight 0.5 --lm-weight 0.1 --lm l"
    status, out, _ = command("transcribe", "a.wav", *options.split(), "--batch-size", 4, "--format", "json")
    assert status == 0
    assert json.loads(out)["text"] == "a again"
    assert stub.asked["load"] == ("m", "cpu", "bfloat16", Path("l"))
    search = stub.asked["search"]
    assert (search.beam_size, search.nbest, search.ctc_weight, search.lm_weight) == (3, 2, 0.5, 0.1)
    assert (stub.asked["word_timestamps"], stub.asked["batch_size"]) == (True, 4)


def test_a_weight_for_a_language_model_that_is_not_there(command: Command, stub: StubRecogniser) -> None:
    stub.has_lm = False
    status, out, err = command("transcribe", "a.wav", "--lm-weight", 0.3)
    assert (status, out) == (2, "")
    assert "--lm-weight: without a language model" in err
    assert command("transcribe", "a.wav", "--lm-weight", 0)[0] == 0


@pytest.mark.parametrize("given", [("--no-word-timestamps", False), ("--word-timestamps", True)])
def test_word_timestamps_can_be_chosen(given: tuple[str, bool], command: Command, stub: StubRecogniser) -> None:
    command("transcribe", "a.wav", "--format", "srt", given[0])
    assert stub.asked["word_timestamps"] is given[1]


def test_more_alternatives_than_beams_widen_the_beam(command: Command, stub: StubRecogniser) -> None:
    command("transcribe", "a.wav", "--nbest", 20, "--format", "json")
    assert stub.asked["search"].beam_size == 20


def test_every_dtype_can_be_asked_for(command: Command, stub: StubRecogniser) -> None:
    from asr.recogniser import DTYPES

    assert {name.value for name in DtypeName} == {*DTYPES}
    for dtype in DTYPES:
        assert command("transcribe", "a.wav", "--dtype", dtype)[0] == 0
        assert stub.asked["load"] == ("default", "auto", dtype, None)


def test_transcribe_a_folder(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    folder = files(tmp_path / "in", "a.wav", "a.mp3", "sub/b.wav")
    options = ["--output-dir", tmp_path / "new/out", "--format", "all"]
    assert command("transcribe", folder, *options) == (0, "", "")
    names = below(tmp_path / "new/out")
    assert len(names) == 15
    assert {"a.wav.txt", "a.mp3.txt", "sub/b.wav.json"} <= {*names}
    stub.heard.clear()
    assert command("transcribe", folder, *options, "--resume") == (0, "", "")
    assert not stub.heard


def test_one_bad_file_among_many(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    folder = files(tmp_path, "a.wav", "bad.wav", "c.wav")
    status, out, err = command("transcribe", folder)
    assert status == 1
    assert out.count("\n") == 4
    assert err == f"spellstream: {folder}/bad.wav: is not audio\nspellstream: 1 of 3 failed\n"


def test_one_bad_file_alone_needs_no_sum(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "bad.wav") == (1, "", "spellstream: bad.wav: is not audio\n")


def test_an_empty_folder(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", tmp_path) == (1, "", f"spellstream: {tmp_path}: no audio file in this folder\n")


def test_names_that_are_no_text(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    names = ["line\nbreak bad.wav", "not utf-8 \udcff.wav", "[red]markup.wav"]
    status, out, err = command("transcribe", *files(tmp_path, *names).iterdir())
    assert status == 1
    assert out.count("\n") == 4
    assert err.splitlines()[0] == f"spellstream: {tmp_path}/line break bad.wav: is not audio"
    assert f"{tmp_path}/[red]markup.wav: [red]markup\n" in out


def test_an_output_folder_that_cannot_be_made(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    (tmp_path / "file").touch()
    status, out, err = command("transcribe", "a.wav", "--output-dir", tmp_path / "file")
    assert (status, out, err) == (1, "", f"spellstream: {tmp_path}/file: File exists\n")


def test_the_bar_leaves_standard_output_alone(
    command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = command("transcribe", "a.wav", "bad.wav", "c.wav")
    assert status == 1
    assert sorted(out.splitlines()) == ["a.wav: a", "a.wav: again", "c.wav: again", "c.wav: c"]
    assert "spellstream: bad.wav: is not audio\n" in err
    assert "3 of 3 files" in err
    assert "real time" in err
    assert "files" not in command("transcribe", "a.wav", "--quiet")[2]
