"""Options spelled as in whisper, and hints for whisper's options without an equivalent."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.commands.spelling import hint, understood
from tests.support.archive import below, files
from tests.support.commands import Command, StubRecogniser

OPTIONS = [
    "--output-dir",
    "--format",
    "--beam-size",
    "--max-lines",
    "--quiet",
    "--word-timestamps",
    "--no-word-timestamps",
]
FLAGS = ["--quiet", "--word-timestamps", "--no-word-timestamps"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a.wav --output_dir out", "a.wav --output-dir out"),
        ("a_b.wav --output_format=srt", "a_b.wav --format=srt"),
        ("--max_line_count 1 --beam_size 5", "--max-lines 1 --beam-size 5"),
        ("--word_timestamps True a.wav", "--word-timestamps a.wav"),
        ("--word_timestamps False a.wav", "--no-word-timestamps a.wav"),
        ("--word-timestamps True", "--word-timestamps True"),
        ("--best_of 5", "--best_of 5"),
        ("-- --output_dir", "-- --output_dir"),
    ],
)
def test_names_are_understood(typed: str, meant: str) -> None:
    assert understood(typed.split(), OPTIONS, FLAGS) == meant.split()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--ouput-dir", "did you mean --output-dir?"),
        ("--beams", "did you mean --beam-size?"),
        ("--fp16", "use --dtype float16"),
        ("--initial_prompt", "use --hotwords for names and terms"),
        ("--zebra", ""),
    ],
)
def test_unknown_options_have_a_hint(option: str, says: str) -> None:
    assert hint(option, OPTIONS) == says


def test_a_command_line_of_whisper_works(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    talk = files(tmp_path, "talk.mp4") / "talk.mp4"
    words = f"{talk} --model default --language English --output_format srt --output_dir {tmp_path}/out"
    status, out, err = command("transcribe", *words.split(), "--max_line_width", 20, "--word_timestamps", "True")
    assert (status, out, err) == (0, "", "")
    assert below(tmp_path / "out") == ["talk.srt"]


def test_an_unknown_option_is_one_line(command: Command) -> None:
    said = "no such option: --task: speech is transcribed, never translated (see spellstream transcribe --help)"
    assert command("transcribe", "a.wav", "--task", "translate") == (2, "", f"spellstream: {said}\n")
    assert "did you mean 'transcribe'?" in command("trancribe", "a.wav")[2].lower()
    assert "fr is not supported" in command("transcribe", "a.wav", "--language", "fr")[2]


@pytest.mark.parametrize("typed", ["help transcribe", "transcribe -h", "help"])
def test_help_as_people_ask_for_it(typed: str, command: Command) -> None:
    status, out, err = command(*typed.split())
    assert (status, err) == (0, "")
    assert "Usage: spellstream" in out
    assert ("--beside" in out) == ("transcribe" in typed)
