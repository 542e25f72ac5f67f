"""`spellstream dictate`: typed text, control of the running dictation, error messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

import asr
import streaming
from asr.commands.main import app
from streaming import Final
from streaming.commands import dictate as commands
from streaming.commands.listen_options import SourceOptions
from streaming.dictation.running import Lock, running
from tests.support.commands import Command
from tests.support.dictating import Screen, fake_typer, plugin
from tests.support.replay import Replay


@pytest.fixture(scope="module")
def expected(model: Path, talk: Path) -> str:
    recogniser = asr.load(str(model), "cpu")
    events = streaming.listen(streaming.FileReplay(talk, speed=None), model=recogniser)
    return " ".join(event.segment.spoken for event in events if isinstance(event, Final) and event.text)


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A session without the user's own files, whose only typing program is a fake."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    made = fake_typer(tmp_path)
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    return made


@pytest.fixture
def command(command: Command, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    commands.register(app)
    return command


def test_what_is_said_is_typed(command: Command, screen: Screen, model: Path, talk: Path, expected: str) -> None:
    given = ("dictate", "--style", "spoken", "--file", talk, "--speed", 0, "--model", model)
    for options in ((), ("--no-corrections",)):
        screen.clear()
        status, out, err = command(*given, *options)
        assert (status, out) == (0, "")
        assert screen.text == expected
        assert f"listening to {talk}; typing with xdotool" in err
        assert err.endswith("dictation has ended\n")
    assert screen.calls == 2  # a call for each utterance
    status, out, _ = command(*given, "--typer", "stdout")
    assert (status, out) == (0, expected + "\n")


def test_a_typer_that_fails_loses_nothing(
    command: Command, screen: Screen, model: Path, talk: Path, expected: str
) -> None:
    screen.break_it()
    status, out, err = command(
        "dictate", "--style", "spoken", "--file", talk, "--speed", 0, "--model", model, "--no-corrections"
    )
    assert status == 1
    assert err.endswith("spellstream: xdotool failed: it is broken\n")
    assert err.count("it is broken") == 1
    assert out.strip()
    assert expected.startswith(out.rstrip("\n"))


RESUME = """
import os, pathlib, signal, sys, time
while "paused" not in pathlib.Path(sys.argv[2]).read_text():
    time.sleep(0.05)
os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""


def test_signals(
    command: Command,
    screen: Screen,
    model: Path,
    talk: Path,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGUSR1 pauses and closes the source; a second SIGUSR1 resumes with a new source; SIGTERM ends the dictation.

    The test sent the second signal a fixed second after the first. On a busy machine the dictation was still in a call
    into PyTorch, so both signals counted as one, and the test waited forever.
    """
    sources: list[Replay] = []
    waveform = asr.audio.load(talk)

    def source(before: Callable[[int], None]) -> Replay:
        sources.append(Replay(waveform, before))
        return sources[-1]

    def press(chunk: int) -> None:
        number = len(sources)
        if number == 1 and chunk == 30:
            os.kill(os.getpid(), signal.SIGUSR1)
            state = tmp_path / "run" / "spellstream" / "dictate.pid"
            helpers.append(subprocess.Popen([sys.executable, "-c", RESUME, str(os.getpid()), str(state)]))
        elif number == 2 and chunk == 5:
            assert sources[0].closed
            os.kill(os.getpid(), signal.SIGTERM)

    helpers: list[subprocess.Popen[bytes]] = []
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(SourceOptions, "find", lambda self: None)
    monkeypatch.setattr(SourceOptions, "open", lambda self: source(press))
    status, _, err = command("dictate", "--style", "spoken", "--model", model)
    assert helpers[0].wait() == 0
    assert (status, len(sources)) == (0, 2)
    assert "paused; the microphone is closed" in err
    assert screen.text
    assert expected.startswith(screen.text[:5])
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)] == before


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_toggle(
    command: Command, model: Path, tmp_path: Path, repository_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--toggle starts a dictation in the background, pauses and resumes it; a second one is refused; --stop ends it."""
    path = tmp_path / "silence.wav"
    soundfile.write(path, torch.zeros(16_000 * 120).numpy(), 16_000)
    monkeypatch.setenv("PYTHONPATH", f"{repository_root}:{plugin(tmp_path)}")

    def state() -> str | None:
        one = running()
        return one and one.state

    given = [sys.executable, "-m", "asr", "dictate", "--toggle", "--file", str(path), "--model", str(model)]
    started = subprocess.run(given, cwd=repository_root, capture_output=True, text=True, timeout=60)
    try:
        assert (started.returncode, started.stdout) == (0, "")
        assert "dictation starts in the background" in started.stderr
        until(lambda: state() == "listening")
        status, _, err = command("dictate", "--file", path, "--model", model)
        assert status == 1
        assert "a dictation is already running (process" in err
        for expected in ("paused", "listening"):
            assert command("dictate", "--toggle") == (0, "", "")
            until(lambda expected=expected: state() == expected)
        assert command("dictate", "--stop") == (0, "", "")
        until(lambda: state() is None)
    finally:
        if (one := running()) is not None:
            one.send(signal.SIGKILL)
    log = (tmp_path / "run" / "spellstream" / "dictate.log").read_text()
    assert log.endswith("dictation has ended\n")


def test_status_and_stop(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("dictate", "--status") == (1, "not running\n", "")
    assert command("dictate", "--stop") == (1, "", "spellstream: no dictation is running\n")
    lock = Lock.take()
    assert lock is not None
    lock.write(os.getpid(), "paused")
    assert command("dictate", "--status") == (0, f"paused, process {os.getpid()}\n", "")
    lock.close()


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--toggle", "--stop"], "--toggle and --stop: only one of these at a time"),
        (["--toggle", "--typer", "stdout"], "--typer: a dictation in the background has no standard output"),
        (["--toggle", "--stdin"], "--stdin: a dictation in the background has no standard input"),
        (["--typer", "hand"], "--typer"),
        (["--file", "a.wav", "--stdin"], "--file and --stdin: there can be only one source"),
    ],
)
def test_wrong_use(arguments: list[str], says: str, command: Command) -> None:
    status, out, err = command("dictate", *arguments)
    assert (status, out) == (2, "")
    assert says in " ".join(err.split())
    assert err.count("\n") == 1


def test_what_is_missing_is_told_before_the_model_is_loaded(
    command: Command, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[commands]\ncomma = 3")
    assert command("dictate", "--commands", wrong)[2].startswith(f'spellstream: {wrong}: "comma": 3: expected text')
    monkeypatch.setattr("streaming.sources.devices.devices", list)
    assert command("dictate") == (1, "", "spellstream: there is no microphone: the system lists no audio input\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("dictate") == (1, "", "spellstream: xdotool is needed to type: apt install xdotool\n")
    monkeypatch.delenv("DISPLAY")
    assert "no graphical session" in command("dictate")[2]


def test_help_and_the_list_of_commands(command: Command) -> None:
    status, out, _ = command("dictate", "--help")
    assert status == 0
    assert "sway:" in out
    assert "--lock-fd" not in out
    status, out, _ = command("dictate", "--list-commands")
    assert status == 0
    assert {"full stop", "scratch that"} <= {line[:20].strip() for line in out.splitlines()}
