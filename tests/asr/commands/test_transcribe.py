"""`spellstream transcribe` with a stub recogniser: destinations and content of transcripts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from asr.audio.segment import SegmentConfig
from asr.commands.options import DtypeName
from asr.config import ModelConfig
from asr.writing.hotwords import Phrase
from tests.support.archive import below, files
from tests.support.commands import Command, StubRecogniser


def test_transcribe_to_standard_output(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "talk.wav") == (0, "talk\nagain\n", "")
    assert stub.asked["load"] == ("default", "auto", "float32", None)
    assert stub.asked["search"] == ModelConfig(vocab_size=40).search
    assert (stub.asked["word_timestamps"], stub.asked["batch_size"]) == (True, 16)  # marks need the pauses
    command("transcribe", "talk.wav", "--style", "spoken")
    assert stub.asked["word_timestamps"] is False


def test_transcribe_passes_options_on(command: Command, stub: StubRecogniser) -> None:
    options = "--model m --device cpu --dtype bfloat16 --lm l --batch-size 4 --format json"
    options += " --beam-size 3 --nbest 2 --beam-margin 5 --ctc-weight 0.5 --lm-weight 0.1"
    status, out, _ = command("transcribe", "a.wav", *options.split())
    assert status == 0
    assert json.loads(out)["text"] == "a again"
    assert stub.asked["load"] == ("m", "cpu", "bfloat16", "l")
    search = stub.asked["search"]
    assert (search.beam_size, search.nbest, search.beam_margin) == (3, 2, 5.0)
    assert (search.ctc_weight, search.lm_weight) == (0.5, 0.1)
    assert (stub.asked["word_timestamps"], stub.asked["batch_size"]) == (True, 4)
    assert stub.asked["style"] == "written"


def test_transcribe_listens_for_hotwords(command: Command, stub: StubRecogniser, tmp_path: Path) -> None:
    assert command("transcribe", "a.wav", "--hotwords", "Nextcloud, Siobhán:3")[0] == 0
    assert stub.asked["hotwords"].phrases == (Phrase("Nextcloud"), Phrase("Siobhán", 3.0))
    (tmp_path / "names").write_text("Nextcloud # a comment", encoding="utf-8")
    assert command("transcribe", "a.wav", "--hotwords", tmp_path / "names")[0] == 0
    assert stub.asked["hotwords"].phrases == (Phrase("Nextcloud"),)
    for wrong, reason in ((["a:99"], "at most 5"), (["a.txt"], "No such file"), (["a", "--beam-size", 1], "greedy")):
        status, _, err = command("transcribe", "a.wav", "--hotwords", *wrong)
        assert status == 2
        assert "--hotwords" in err
        assert reason in err


def test_transcribe_as_it_was_spoken(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "a.wav", "--style", "spoken")[0] == 0
    assert stub.asked["style"] == "spoken"
    status, _, err = command("transcribe", "a.wav", "--style", "shouted")
    assert status == 2
    assert "--style" in err


def test_transcribe_cuts_where_it_is_told(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "a.wav")[0] == 0
    assert stub.asked["segment"] == SegmentConfig()
    options = "--min-silence-ms 300 --speech-threshold 0.2 --max-seconds 10"
    assert command("transcribe", "a.wav", *options.split())[0] == 0
    segment = stub.asked["segment"]
    assert (segment.min_silence_ms, segment.padding_ms, segment.max_seconds) == (300, 150, 10.0)
    assert (segment.speech_threshold, segment.silence_threshold) == (0.2, 0.2)
    status, _, err = command("transcribe", "a.wav", "--min-silence-ms", 30_000)
    assert status == 2
    assert "min_silence_ms" in err


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

    assert {*get_args(DtypeName)} == {*DTYPES}
    for dtype in DTYPES:
        assert command("transcribe", "a.wav", "--dtype", dtype)[0] == 0
        assert stub.asked["load"] == ("default", "auto", dtype, None)


def test_transcribe_a_folder(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    folder = files(tmp_path / "in", "a.wav", "a.mp3", "sub/b.wav")
    options = ["--output-dir", tmp_path / "new/out", "--format", "all", "--quiet"]
    assert command("transcribe", folder, *options) == (0, "", "")
    names = below(tmp_path / "new/out")
    assert len(names) == 15
    assert {"a.wav.txt", "a.mp3.txt", "sub/b.json"} <= {*names}
    stub.heard.clear()
    assert command("transcribe", folder, *options, "--resume") == (0, "", "")
    assert not stub.heard


def test_resume_knows_outputs_named_as_before(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    """Earlier versions named the output `talk.wav.txt`; --resume must count it as `talk.txt`."""
    folder, out = files(tmp_path / "in", "old.wav", "new.wav"), files(tmp_path / "out", "old.wav.txt")
    assert command("transcribe", folder, "--output-dir", out, "--resume") == (0, "", "")
    assert stub.heard == [f"{folder}/new.wav"]
    assert below(out) == ["new.txt", "old.wav.txt"]


def test_transcribe_beside_the_source(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    folder = files(tmp_path, "talk.mp4", "sub/b.wav")
    assert command("transcribe", folder, "--beside", "-f", "srt") == (0, "", "")
    assert below(folder) == ["sub/b.srt", "sub/b.wav", "talk.mp4", "talk.srt"]
    stub.heard.clear()
    status, _, err = command("transcribe", folder / "talk.mp4", "--beside", "-f", "srt")
    assert status == 1
    assert err == f"spellstream: {folder}/talk.srt: exists already: --overwrite replaces it, --resume skips it\n"
    assert not stub.heard
    assert command("transcribe", folder, "--beside", "-f", "srt", "--overwrite") == (0, "", "")


def test_transcribe_to_one_file(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    talk = files(tmp_path, "talk.mp4") / "talk.mp4"
    assert command("transcribe", talk, "-o", tmp_path / "x.srt", "--max-words", 1) == (0, "", "")
    assert (tmp_path / "x.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,000\ntalk\n")
    status, _, err = command("transcribe", talk, "-o", tmp_path / "nowhere" / "x.srt")
    assert (status, stub.asked["word_timestamps"]) == (1, True)
    assert "nowhere: no such folder" in err


def test_flags_in_help_take_no_value(command: Command) -> None:
    """`--beside <bool>` reads as if `--beside true` had to be typed."""
    assert "bool" not in command("transcribe", "--help")[1]


def test_loading_is_said_before_heavy_imports(tmp_path: Path, repository_root: Path) -> None:
    """The command was silent for the seconds that the import of PyTorch takes on a cold disk."""
    talk, manifest = files(tmp_path, "a.wav") / "a.wav", tmp_path / "a.jsonl"
    manifest.write_text('{"audio": "a.wav", "text": "a"}')
    code = """
import builtins, sys
from asr.commands.main import main
real = builtins.__import__
def importing(name, *rest):
    if name.split(".")[0] == "torch":
        raise SystemExit
    return real(name, *rest)
builtins.__import__ = importing
for line in sys.stdin:
    try:
        main(line.split())
    except SystemExit:
        print("reached torch", file=sys.stderr)
"""
    commands = (
        f"transcribe {talk}",
        f"evaluate {manifest}",
        f"plot {talk}",
        "info",
        f"train --config {manifest} --data a --dev a --output a",
        "finetune --data a --dev a --output a",
        f"prepare {manifest} --output a",
        f"train-lm --text {manifest} --output a",
    )
    command, typed = [sys.executable, "-c", code], "\n".join(commands)
    done = subprocess.run(command, cwd=repository_root, input=typed, capture_output=True, text=True, check=True)
    said = r"spellstream: loading (the model default|PyTorch)\nreached torch\n"
    assert re.fullmatch(f"({said}){{{len(commands)}}}", done.stderr), done.stderr


def test_one_bad_file_among_many(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    folder = files(tmp_path, "a.wav", "bad.wav", "c.wav")
    status, out, err = command("transcribe", folder)
    assert status == 1
    assert out.count("\n") == 4
    assert err == f"spellstream: {folder}/bad.wav: is not audio\nspellstream: 1 of 3 failed\n"


def test_one_bad_file_alone_needs_no_sum(command: Command, stub: StubRecogniser) -> None:
    assert command("transcribe", "bad.wav") == (1, "", "spellstream: bad.wav: is not audio\n")


@pytest.mark.parametrize(
    "arguments", ["transcribe typo.wav", "transcribe typo.jsonl", "plot typo.wav", "evaluate typo.jsonl"]
)
def test_a_missing_file_is_reported_before_a_model_is_loaded(
    arguments: str, command: Command, stub: StubRecogniser
) -> None:
    """A mistyped name was reported only after seconds of loading."""
    status, out, err = command(*arguments.split())
    assert (status, out) == (1, "")
    assert re.fullmatch(r"spellstream: typo\.\w+: .*no such file.*\n", err, re.IGNORECASE)
    assert "load" not in stub.asked


def test_missing_files_are_named_and_the_others_done(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    status, out, err = command("transcribe", "typo.wav", "a.wav", "gone.wav")
    assert (status, out) == (1, "a.wav: a\na.wav: again\n")
    said = ["typo.wav: no such file", "gone.wav: no such file", "2 of 3 failed"]
    assert err.splitlines() == [f"spellstream: {line}" for line in said]
    rows = tmp_path / "rows.jsonl"
    assert command("transcribe", "typo.wav", "gone.wav", "-o", rows)[0] == 1
    assert [json.loads(line)["error"] for line in rows.read_text().splitlines()] == ["no such file"] * 2


def test_a_source_deleted_after_its_transcript_was_written_is_skipped(
    tmp_path: Path, command: Command, stub: StubRecogniser
) -> None:
    arguments = ("transcribe", "a.wav", "--output-dir", tmp_path, "--resume")
    assert command(*arguments) == (0, "", "")
    Path("a.wav").unlink()
    assert command(*arguments) == (0, "", "")


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
    assert (status, out, err) == (1, "", f"spellstream: {tmp_path}/file: is a file, not a folder\n")


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
