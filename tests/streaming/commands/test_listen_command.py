"""`spellstream listen` and `spellstream devices`: output, signals, wrong use."""

from __future__ import annotations

import inspect
import json
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
from asr.audio import load
from asr.commands.main import app
from asr.errors import DependencyError
from streaming import EndpointConfig, Final, PolicyConfig, StreamConfig
from streaming.commands import listen as commands
from streaming.commands.listen_options import SourceOptions
from streaming.commands.serve import serve
from streaming.sources.devices import Device
from tests.support.commands import Command
from tests.support.listening import RUN, listening
from tests.support.replay import CHUNK_SAMPLES, Replay


@pytest.fixture(scope="module")
def expected(model: Path, talk: Path) -> list[str]:
    """The texts of the talk's segments."""
    recogniser = asr.load(str(model), "cpu")
    events = streaming.listen(streaming.FileReplay(talk, speed=None), model=recogniser)
    return [event.text for event in events if isinstance(event, Final) and event.text]


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    commands.register(app)
    return command


# --- the whole --------------------------------------------------------------------------------------------------------


def test_plain_lines_in_a_pipe(command: Command, model: Path, talk: Path, expected: list[str], tmp_path: Path) -> None:
    saved, subtitles = tmp_path / "saved.wav", tmp_path / "talk.srt"
    before = signal.getsignal(signal.SIGINT)
    status, out, err = command(
        "listen", "--file", talk, "--speed", 0, "--model", model, "--save", saved, "--output", subtitles
    )
    assert status == 0
    assert out.splitlines() == expected
    assert len(expected) == 2
    assert f"listening to {talk}" in err
    assert "s of computing per second of audio, nothing dropped\n" in err
    assert f", {sum(len(text.split()) for text in expected)} words, " in err
    assert signal.getsignal(signal.SIGINT) is before

    assert (soundfile.read(saved, dtype="int16")[0] == soundfile.read(talk, dtype="int16")[0]).all()
    numbers = [line for line in subtitles.read_text().splitlines() if line.isdecimal()]
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]


def test_one_thread_unless_told_otherwise(
    command: Command, model: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thread on each core, one busy core delayed every step, and most audio was dropped."""
    for options, expected in (((), 1), (("--threads", 3), 3)):
        chosen: list[int] = []  # the voice detector's threads start later, and only for a moment
        monkeypatch.setattr(torch, "set_num_threads", chosen.append)
        command("listen", "--file", talk, "--speed", 0, "--model", model, *options)
        assert chosen[0] == expected


def test_json_lines(command: Command, model: Path, talk: Path, expected: list[str]) -> None:
    everything = ("--partials", "--show-margin-ms", 0)
    status, out, _ = command("listen", "--file", talk, "--speed", 0, "--model", model, *everything)
    lines = [json.loads(line) for line in out.splitlines()]
    finals = [line for line in lines if line["type"] == "final" and line["text"]]
    assert (status, [line["text"] for line in finals]) == (0, expected)
    words = finals[0]["words"]
    assert " ".join(word["text"] for word in words) == expected[0]
    assert finals[0]["start"] <= words[0]["start"] <= words[-1]["end"] <= finals[0]["end"]
    partials = [line for line in lines if line["type"] == "partial"]
    assert len(partials) > 2
    for line in partials:
        assert line["text"] == " ".join(word["text"] for word in (*line["committed"], *line["tentative"]))


def test_ctrl_c_brings_the_last_words(model: Path, talk: Path) -> None:
    everything = ("--partials", "--show-margin-ms", 0)
    with listening("--file", talk, "--model", model, *everything, "--threads", 1) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "partial"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    last = json.loads(out.splitlines()[-1])
    assert last["type"] == "final"
    assert last["text"]
    assert "median latency" in err


def test_killed_is_not_lost(model: Path, talk: Path, expected: list[str], tmp_path: Path) -> None:
    """After a kill, the files hold all that was recognised before."""
    saved, text = tmp_path / "saved.wav", tmp_path / "talk.txt"
    heard = soundfile.read(talk, dtype="int16")[0][:-CHUNK_SAMPLES]
    with listening("--stdin", "--model", model, "--threads", 1, "--save", saved, "--output", text) as process:
        assert process.stdin is not None
        process.stdin.buffer.write(heard.tobytes())
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (text.read_text() and len(soundfile.read(saved)[0]) == len(heard)):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert text.read_text() == expected[0] + "\n"
    assert (soundfile.read(saved, dtype="int16")[0] == heard).all()


def test_signals(command: Command, model: Path, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM ends the stream like Ctrl-C; a second signal interrupts."""
    presses: dict[int, int] = {12: signal.SIGTERM}

    def press(chunk: int) -> None:
        if chunk in presses:
            os.kill(os.getpid(), presses[chunk])

    source = Replay(load(talk), press)
    monkeypatch.setattr(SourceOptions, "find", lambda self: None)
    monkeypatch.setattr(SourceOptions, "open", lambda self: source)
    status, out, _ = command("listen", "--model", model)
    assert (status, len(out.splitlines())) == (0, 1)

    presses = {2: signal.SIGINT, 3: signal.SIGINT}
    source = Replay(torch.zeros(80_000), press)
    monkeypatch.setattr(source, "stop", lambda: None)  # a source that does not end when it is stopped
    status, _, err = command("listen", "--model", model)
    assert (status, err.splitlines()[-1]) == (130, "spellstream: interrupted")


def test_dropped_audio_is_told(command: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Replay(torch.zeros(16_000))
    source.lost = 2.5
    monkeypatch.setattr(SourceOptions, "find", lambda self: None)
    monkeypatch.setattr(SourceOptions, "open", lambda self: source)
    status, out, err = command("listen", "--model", model)
    assert (status, out) == (0, "")
    assert "the replay: 2.5 s of audio dropped" in err
    assert err.endswith(", 2.5 s dropped\n")


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--file", "a.wav", "--stdin"], "--file and --stdin: there can be only one source"),
        (["--speed", "2"], "--speed: it is only for --file"),
        (["--track", "fre"], "--track: it is only for --file"),
        (["--file", "a.wav", "--speed", "-1"], "--speed"),
        (["--file", "a.wav", "--sample-rate", "8000"], "--sample-rate: it is only for a microphone or --stdin"),
        (["--file", "a.wav", "--reconnect"], "--reconnect: it is only for a microphone"),
        (["--format", "srt", "--partials"], "--partials: srt cannot contain them"),
        (["--format", "doc"], "--format"),
        (["--policy", "hope"], "--policy"),
        (["--speech-threshold", "1.5"], "--speech-threshold"),
        (["--polcy", "ctc"], "--policy"),
        (["my talk.wav"], "write listen --file 'my talk.wav', or transcribe 'my talk.wav'"),
        (["a.wav", "b.wav", "--policy", "ctc"], "write listen --file a.wav, or transcribe a.wav b.wav"),
        (
            ["--output", "talk.json"],
            "--output: a stream can be written as txt, jsonl, srt, vtt, not as json",
        ),
        (["--max-seconds", "100"], "--max-seconds"),
    ],
)
def test_wrong_use(arguments: list[str], says: str, command: Command) -> None:
    status, out, err = command("listen", *arguments)
    assert (status, out) == (2, "")
    assert says in " ".join(err.split())
    assert err.count("\n") == 1


def test_the_recording_that_is_heard_is_not_overwritten(command: Command, talk: Path) -> None:
    size = talk.stat().st_size
    status, _, err = command("listen", "--file", talk, "--save", talk)
    assert (status, talk.stat().st_size) == (2, size)
    assert "--save: it would overwrite" in err


@pytest.mark.parametrize("option", ["--file", "--save", "--output"])
def test_files_that_cannot_be_used(option: str, command: Command, model: Path, talk: Path, tmp_path: Path) -> None:
    arguments = {"--file": talk, option: tmp_path / "nowhere" / "file"}
    status, out, err = command(
        "listen", "--speed", 0, "--model", model, *(x for pair in arguments.items() for x in pair)
    )
    assert (status, out) == (1, "")
    assert str(tmp_path / "nowhere" / "file") in err.splitlines()[-1]


def test_the_model_is_announced_before_anything_slow(talk: Path, repository_root: Path) -> None:
    """The command was silent for the seconds of its imports. Here the import of torch fails, after the message."""
    code = f"import sys; sys.modules['torch'] = None; {RUN.removeprefix('import sys;')}"
    given = [sys.executable, "-c", code, "listen", "--file", str(talk)]
    done = subprocess.run(given, cwd=repository_root, capture_output=True, text=True)
    assert done.stderr.splitlines()[0] == "spellstream: loading the model default"


def test_help(command: Command, repository_root: Path) -> None:
    for name in ("listen", "devices"):
        status, out, _ = command(name, "--help")
        assert status == 0
        assert f"spellstream {name}" in out.partition("Examples:")[2]
    code = f"{RUN.rpartition(';')[0]}; main(['listen', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository_root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("command", [commands.listen, serve])
def test_defaults_are_those_of_the_configs(command: Callable[..., None]) -> None:
    """Defaults are written twice, so that --help need not import torch: both are equal."""
    given = {name: one.default for name, one in inspect.signature(command).parameters.items()}
    for name in ("min_silence_ms", "speech_threshold", "max_seconds"):
        assert given[name] == getattr(EndpointConfig(), name)
    assert (given["policy"], given["margin_ms"]) == (PolicyConfig().kind, PolicyConfig().margin_ms)
    assert given["show_margin_ms"] == PolicyConfig().show_margin_ms
    assert given["overlap_ms"] == StreamConfig().overlap_ms


# --- devices ----------------------------------------------------------------------------------------------------------

INPUTS = [
    Device(0, "Built-in", 2, 44_100, "ALSA", False),
    Device(3, "Röde [USB]", 1, 48_000, "ALSA", True),
    Device(4, "Dock", 1, 0, "ALSA", False),
]


def test_devices(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.sources.devices.devices", lambda: INPUTS)
    status, out, err = command("devices")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert (status, err) == (0, "")
    assert rows == [
        ["0", "Built-in", "2", "44100 Hz", ""],
        ["3", "Röde [USB]", "1", "48000 Hz", "yes"],
        ["4", "Dock", "1", "unknown", ""],
    ]
    status, out, _ = command("devices", "--json")
    assert status == 0
    assert [(one["index"], one["is_default"]) for one in json.loads(out)] == [(0, False), (3, True), (4, False)]


def test_no_microphone(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.sources.devices.devices", list)
    for arguments in (["devices"], ["devices", "--json"], ["listen"]):
        status, out, err = command(*arguments)
        assert (status, out) == (1, "")
        assert err == "spellstream: there is no microphone: the system lists no audio input\n"


def test_no_portaudio(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise DependencyError("install libportaudio2")

    monkeypatch.setattr("streaming.sources.devices.load_sounddevice", missing)
    for name in ("devices", "listen"):
        assert command(name) == (1, "", "spellstream: install libportaudio2\n")
