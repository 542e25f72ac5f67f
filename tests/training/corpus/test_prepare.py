"""`spellstream prepare` and `statistics`: broken corpora, reports of problems, resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile

from asr.errors import DataError
from asr.training.corpus import shards
from asr.training.corpus.prepare import Settings, prepare
from asr.training.data import Corpus
from tests.support.commands import Command
from tests.support.corpora import manifest, problems, tone, tones


def break_audio(folder: Path) -> None:
    """Files with one kind of damage each."""
    whole = tone(folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "nonsense.wav").write_text("this is no audio")
    tone(folder / "long.wav", 200.0, rate=1_000)
    tone(folder / "half.wav", 0.4)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    os.mkfifo(folder / "pipe.wav")
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")


AUDIO = {
    "missing": "missing audio",
    "cut": "unreadable audio",
    "empty": "unreadable audio",
    "nonsense": "unreadable audio",
    "nan": "unreadable audio",
    "long": "too long",
    "half": "cut short",
    "pipe": "unreadable audio",
    "silent": "silent",
}
TEXT = {
    "emoji": ("good 🙂", "characters"),
    "digits": ("7 times", "characters"),
    "script": ("чай", "characters"),
    "blank": (" ", "no text"),
    "unsaid": ("?! …", "no text"),
    "null": (None, "no text"),
    "fast": ("on and on " * 10, "too fast"),
}


@pytest.mark.parametrize("store", ["copy", "link"])
def test_broken_utterances_are_named_counted_and_left_out(tmp_path: Path, command: Command, store: str) -> None:
    """Broken utterances are reported by id and reason, on standard error and in problems.jsonl; the others are kept."""
    break_audio(tmp_path)
    for name in ("good", "curly", "twice", *TEXT):
        tone(tmp_path / f"{name}.wav")
    rows = [*((name, "go on") for name in AUDIO), *((name, text) for name, (text, _) in TEXT.items())]
    good = (("good", "Go ON!"), ("curly", "don’t – “stop”…"), ("twice", "first"), ("twice", "second"))
    half_a_letter = '{"id": "half a letter", "audio": "good.wav", "duration": 1, "text": "on", "speaker": "\\ud800"}'
    source = manifest(tmp_path, *rows, *good, half_a_letter, "no json")
    status, out, err = command("prepare", source, "--output", tmp_path / "out", "--store", store, "--jobs", 1)
    assert status == 0
    expected = AUDIO | {name: kind for name, (_, kind) in TEXT.items()}
    expected |= {"twice": "duplicate id", "half a letter": "bad line", f"{source}:22": "bad line"}
    assert problems(tmp_path / "out") == expected
    for name, kind in expected.items():
        assert f"spellstream: {name}: {kind}: " in err
    for reason in ("'🙂'", "'чай'", "nan.wav: the sample at 0.000 s is NaN", "it lasts more than 40 s", "no such file"):
        assert reason in err
    assert f"3 utterances, 0.00 h; {len(expected)} left out (" in out
    assert all(f"{count} {kind}" in out for kind, count in Counter(expected.values()).items())
    entries = Corpus.open(tmp_path / "out").entries
    assert [(e.id, e.text, e.seconds) for e in entries] == [
        ("good", "go on", 1.0),
        ("curly", "don't stop", 1.0),
        ("twice", "first", 1.0),
    ]


@pytest.mark.parametrize(("name", "good"), [("some.jsonl", ()), ("cuts.jsonl", ()), ("some.tsv", ("path\tsentence",))])
def test_a_bad_line_is_placed_once(name: str, good: tuple[str, ...], tmp_path: Path, command: Command) -> None:
    """The message was once "some.jsonl:2: bad line: /corpora/some.jsonl:2: not JSON"."""
    path = tmp_path / name
    path.write_text("\n".join([*good, "nonsense", "nonsense"]), encoding="utf-8")
    _, _, err = command("prepare", path, "--output", tmp_path / "out")
    line = len(good) + 1
    (told,) = (each for each in err.splitlines() if f"{name}:{line}" in each)
    assert told.startswith(f"spellstream: {path}:{line}: bad line: ")
    assert told.count(name) == 1


def test_the_terminal_shows_some_of_many(tmp_path: Path, command: Command) -> None:
    tone(tmp_path / "good.wav")
    source = manifest(tmp_path, ("good", "go on"), *((f"n{i}", None) for i in range(9)))
    status, _, err = command("prepare", source, "--output", tmp_path / "out")
    assert status == 0
    assert len(err.splitlines()) == 6
    assert "and 4 more: no text" in err
    assert len(problems(tmp_path / "out")) == 9


def test_where_nothing_is_left_the_command_fails_and_keeps_what_was_there(tmp_path: Path, command: Command) -> None:
    """With an empty manifest, or no usable utterance, the command fails and keeps the previous corpus."""
    (tmp_path / "empty.jsonl").write_text("\n")
    status, _, err = command("prepare", tmp_path / "empty.jsonl", "--output", tmp_path / "out")
    assert (status, "the manifest is empty" in err, len(err.splitlines())) == (1, True, 1)
    prepare([tones(tmp_path, 2)], tmp_path / "out", Settings())
    status, out, err = command("prepare", manifest(tmp_path, ("gone", "go on")), "--output", tmp_path / "out")
    assert (status, out) == (1, "")
    assert "no utterance is left: 1 left out (1 missing audio)" in err
    assert len(Corpus.open(tmp_path / "out")) == 2
    assert problems(tmp_path / "out.part") == {"gone": "missing audio"}


def test_what_is_no_prepared_corpus_is_not_replaced(tmp_path: Path, command: Command) -> None:
    source = tones(tmp_path, 1)
    status, _, err = command("prepare", source, "--output", tmp_path)
    assert (status, len(err.splitlines())) == (1, 1)
    assert "is not a prepared corpus: choose another folder" in err
    assert source.exists()
    status, _, err = command("prepare", source, "--output", tmp_path / "out", "--min-seconds", 5, "--max-seconds", 2)
    assert (status, "min_seconds is 5.0" in err) == (2, True)
    for path in ("nowhere", "u0.wav"):
        status, _, err = command("prepare", tmp_path / path, "--output", tmp_path / "out")
        assert (status, len(err.splitlines()), path in err) == (1, 1, True)


def test_lhotse_reads_what_was_prepared(tmp_path: Path) -> None:
    """For lhotse, recordings, supervisions and cuts agree, and a cut has the audio of its file."""
    prepare([tones(tmp_path, 3)], tmp_path / "out", Settings())
    cuts = (
        lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz")
        .with_recording_path_prefix(tmp_path / "out")
        .to_eager()
    )
    lhotse.qa.validate(cuts)
    cut = cuts[1]
    expected, _ = soundfile.read(tmp_path / "u1.wav", dtype="float32")
    np.testing.assert_array_equal(cut.load_audio()[0], expected)
    assert (cut.id, cut.supervisions[0].text, cut.supervisions[0].custom["corpus"]) == ("u1", "go on", "some")
    recordings, supervisions = (
        lhotse.load_manifest(tmp_path / "out" / f"{name}.jsonl.gz") for name in ("recordings", "supervisions")
    )
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    assert [s.start for s in supervisions] == [0.0, 1.0, 2.01]


def test_linked_audio_stays_where_it_is(tmp_path: Path, command: Command) -> None:
    """Linked audio of another rate stays in place; several channels, which lhotse would split, must be copied."""
    for name, rate, channels in (("a.wav", 16_000, 1), ("b.flac", 44_100, 1), ("c.wav", 16_000, 2)):
        tone(tmp_path / name, 1.0, rate, channels)
    rows = [json.dumps({"id": n[0], "audio": n, "duration": 1.0, "text": "on"}) for n in ("a.wav", "b.flac", "c.wav")]
    source = manifest(tmp_path, *rows)
    status, _, err = command("prepare", source, "--output", tmp_path / "out", "--store", "link")
    assert (status, problems(tmp_path / "out")) == (0, {"c": "cannot be linked"})
    assert "c.wav: it has 2 channels: use the store `copy`" in err
    assert list((tmp_path / "out" / "audio").iterdir()) == []
    corpus = Corpus.open(tmp_path / "out")
    for i, entry in enumerate(corpus.entries):
        assert entry.audio.parent == tmp_path
        waveform = corpus.waveform(i)
        assert len(waveform) == 16_000
        assert float(waveform.square().mean().sqrt()) == pytest.approx(0.3 / 2**0.5, rel=0.02)
    cuts = lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz").to_eager()
    assert [cut.load_audio().shape for cut in cuts] == [(1, 16_000), (1, 44_100)]


def test_the_same_command_finds_it_done_and_another_makes_it_anew(tmp_path: Path, command: Command) -> None:
    """The command does nothing if the manifest, the options and the files are unchanged; otherwise it starts again."""
    source, out = tones(tmp_path, 2), tmp_path / "out"
    (tmp_path / "u1.wav").unlink()
    command("prepare", source, "--output", out)
    made = (out / "cuts.jsonl.gz").stat().st_mtime_ns
    status, said, err = command("prepare", source, "--output", out)
    assert (status, (out / "cuts.jsonl.gz").stat().st_mtime_ns) == (0, made)
    assert "1 utterances, 0.00 h were prepared already; 1 left out (1 missing audio)" in said
    assert "u1: missing audio" in err
    tone(tmp_path / "u1.wav")
    _, said, _ = command("prepare", source, "--output", out)
    assert "2 utterances, 0.00 h; 0 left out" in said
    assert len(Corpus.open(out)) == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["out"]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_UTTERANCES", 3)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_preparation_goes_on(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """After Ctrl-C in the third shard, finished shards are kept, none is partial, and the final result is the same."""
    source, out = tones(tmp_path, 10), tmp_path / "out"
    prepare([source], tmp_path / "unbroken", Settings())
    write = shards._write_shard

    def interrupted(part: Path, number: int, *rest: object) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        write(part, number, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_shard", interrupted)
        status, _, err = command("prepare", source, "--output", out, "--jobs", jobs)
    assert status == 130
    assert f"interrupted: finished work is kept in {out}.part" in err
    assert not out.exists()
    written: list[int] = []

    def noted(part: Path, number: int, *rest: object) -> None:
        written.append(number)
        write(part, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_write_shard", noted)
    status, said, _ = command("prepare", source, "--output", out, "--jobs", jobs)
    assert (status, written) == (0, [2, 3])
    assert "10 utterances" in said
    broken, whole = Corpus.open(out), Corpus.open(tmp_path / "unbroken")
    assert [e.id for e in broken.entries] == [e.id for e in whole.entries]
    for i in range(10):
        assert broken.waveform(i).equal(whole.waveform(i))


def test_a_corpus_is_prepared_by_one_run_at_a_time(tmp_path: Path, command: Command) -> None:
    """A second run on the same folder is refused; the lock of a killed run does not block the next one."""
    source, out, part = tones(tmp_path, 2), tmp_path / "out", tmp_path / "out.part"
    holding = "import sys; from asr.training.corpus.prepare import *; from asr.training.corpus.prepare import _alone\n"
    holding += "from pathlib import Path\nwith _alone(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        status, _, err = command("prepare", source, "--output", out)
        assert (status, out.exists()) == (1, False)
        assert f"{part}: in use by another run of prepare" in err
        other.kill()
    assert command("prepare", source, "--output", out)[0] == 0
    assert sorted(p.name for p in out.iterdir() if not p.name.endswith(".gz")) == [
        "audio",
        "corpus.json",
        "problems.jsonl",
    ]


def test_what_lies_beside_a_corpus_is_left_alone(tmp_path: Path) -> None:
    """Users keep a corpus with `mv mine mine.old`, and preparing `mine` again deleted the old one."""
    out = tmp_path / "out"
    for name in ("out.old", "out.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    with pytest.raises(DataError, match=r"out\.part: was not made by prepare"):
        prepare([tones(tmp_path, 1)], out, Settings())
    (tmp_path / "out.part").rename(tmp_path / "elsewhere")
    for count in (1, 2):
        assert prepare([tones(tmp_path, count)], out, Settings()).utterances == count
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["elsewhere", "out", "out.old"]
    assert all((tmp_path / name / "precious").read_text() == "mine" for name in ("out.old", "elsewhere"))


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_is_one_line_and_leaves_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, the library that writes audio may truncate a file silently."""
    source = tones(tmp_path, 2)
    monkeypatch.setattr(soundfile.SoundFile, "write", lambda self, data: None)
    with pytest.raises(DataError, match=r"000000\.wav: could not be written whole: is the disk full"):
        prepare([source], tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_statistics_are_shown_and_stored(tmp_path: Path, command: Command) -> None:
    prepare([tones(tmp_path, 3)], tmp_path / "out", Settings())
    status, out, err = command("statistics", tmp_path / "out")
    assert (status, err) == (0, "")
    row = next(line for line in out.splitlines() if "some" in line)
    assert row.replace("│", " ").split()[1:6] == ["3", "0.001", "0", "6", "15"]
    stored = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert len(stored["features"]["mean"]) == 80
    status, out, _ = command("statistics", tmp_path / "out", "--json")
    assert json.loads(out) == stored
    status, out, err = command("statistics", tmp_path / "nowhere")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
