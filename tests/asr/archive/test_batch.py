"""Many files: which are found, where their transcripts go, what survives a failure, an interrupt and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from asr.archive.batch import Options, OutputFolder, Sink, StandardOutput, find, run
from asr.config import SearchConfig
from asr.errors import DataError, SpellstreamError
from asr.output.formats import FORMATS, read_json
from asr.terminal import Progress
from asr.transcript import Transcript
from tests.support.commands import Stub, transcript_of

OPTIONS = Options(SearchConfig(), word_timestamps=False, batch_size=16)
RESUME = Options(SearchConfig(), word_timestamps=False, batch_size=16, resume=True)


def files(folder: Path, *names: str) -> Path:
    paths = [folder / name for name in names]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.touch()
    return folder


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- finding ----------------------------------------------------------------------------------------------------------


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "b.WAV", "a.mp3", "deep/er/c.mkv", "notes.txt", ".hidden.wav", ".trash/d.wav")
    assert list(find([str(folder), "notes.txt", "-", "missing.wav"])) == [
        f"{folder}/a.mp3",
        f"{folder}/b.WAV",
        f"{folder}/deep/er/c.mkv",
        "notes.txt",
        "-",
        "missing.wav",
    ]


def test_a_folder_without_audio_is_an_error(tmp_path: Path) -> None:
    (error,) = find([str(files(tmp_path, "notes.txt", "sub/more.txt"))])
    assert str(error) == f"{tmp_path}: no audio file in this folder"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path, "a.wav", "closed/b.wav")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list(find([str(folder)]))
    assert found[0] == f"{folder}/a.wav"
    assert str(found[1]) == f"{folder}/closed: Permission denied"
    assert len(found) == 2


def test_linked_folders_are_not_followed_so_that_a_loop_ends(tmp_path: Path) -> None:
    folder = files(tmp_path, "a.wav")
    (folder / "loop").symlink_to(folder)
    assert list(find([str(folder)])) == [f"{folder}/a.wav"]


# --- where transcripts go ---------------------------------------------------------------------------------------------


def test_the_output_folder_mirrors_a_folder(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "sub/b.wav")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt", "json"])
    assert out.paths(f"{folder}/sub/b.wav") == [tmp_path / "out/sub/b.wav.txt", tmp_path / "out/sub/b.wav.json"]


def test_no_two_sources_share_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "one/a.wav", "one/a.mp3", "two/a.wav", "one/a.wav.mp3", "a.wav", "one/x/a.wav")
    monkeypatch.chdir(tmp_path)
    given = ["one", "two/a.wav", "two/../a.wav", "-"]
    out = OutputFolder(Path("out"), given, FORMATS)
    sources = [source for source in find(given) if isinstance(source, str)]
    paths = [path for source in sources for path in out.paths(source)]
    assert len({*paths}) == len(paths) == 7 * len(FORMATS)
    assert all(Path("out") in path.parents for path in paths)
    assert ".." not in {part for path in paths for part in path.parts}
    assert out.paths("two/a.wav")[0] == Path("out/two/a.wav.txt")


def test_a_linked_file_keeps_its_own_name(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "real.wav")
    (folder / "link.wav").symlink_to(folder / "real.wav")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt"])
    assert out.paths(f"{folder}/link.wav") == [tmp_path / "out/link.wav.txt"]


@pytest.mark.parametrize(
    ("name", "several", "expected"),
    [
        ("txt", False, "hello there\nagain\n"),
        ("txt", True, "a.wav: hello there\na.wav: again\n"),
        ("tsv", False, "start_ms\tend_ms\ttext\n0\t1000\thello there\n1000\t2000\tagain\n"),
    ],
)
def test_standard_output(name: str, several: bool, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    StandardOutput(name, several).write("a.wav", transcript_of("a.wav"))
    assert capsys.readouterr().out == expected


def test_silence_among_several_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    StandardOutput("txt", several=True).write("a.wav", Transcript("a.wav", 1.0))
    assert capsys.readouterr().out == "a.wav:\n"


def test_json_of_several_takes_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("a.wav", "b.wav"):
        StandardOutput("json", several=True).write(source, transcript_of(source))
    lines = capsys.readouterr().out.splitlines()
    assert [read_json(line) for line in lines] == [transcript_of("a.wav"), transcript_of("b.wav")]


def test_a_manifest_stands_for_the_files_it_lists(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    line = '{{"id": "{0}", "audio": "../audio/{1}", "duration": 1, "text": null}}\n'
    manifest.write_text(line.format(1, "deep/b.wav") + "{}\n" + line.format(2, "a.wav"))
    found = list(find([str(manifest), str(tmp_path / "missing.jsonl")]))
    audio = tmp_path.parent / "audio"
    assert [str(one) for one in found] == [
        f"{audio}/deep/b.wav",
        f"{manifest}:2: missing id, audio, duration, text",
        f"{audio}/a.wav",
        f"{tmp_path}/missing.jsonl: cannot read the manifest: No such file or directory",
    ]
    assert [isinstance(one, DataError) for one in found] == [False, True, False, True]
    out = OutputFolder(tmp_path / "out", [str(manifest)], ["txt"])
    assert out.paths(f"{audio}/deep/b.wav") == [tmp_path / "out/deep/b.wav.txt"]


# --- the run ----------------------------------------------------------------------------------------------------------


def test_what_fails_is_named_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path / "in", "a.wav", "bad.wav", "sub/c.flac")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt", "srt"])
    tally = run(Stub(), [str(folder), str(tmp_path / "in" / "sub")], out, OPTIONS, Progress())
    assert (tally.done, tally.failed, tally.total) == (3, 1, 4)
    assert below(tmp_path / "out") == ["a.wav.srt", "a.wav.txt", "sub/c.flac.srt", "sub/c.flac.txt"]
    assert (tmp_path / "out/sub/c.flac.txt").read_text() == "c\nagain\n"
    assert capsys.readouterr().err == f"spellstream: {folder}/bad.wav: is not audio\n"


def test_what_cannot_be_written_is_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path / "in", "a.wav", "sub/b.wav")
    files(tmp_path / "out", "sub")  # a file is where a folder should go
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt"])
    tally = run(Stub(), [str(folder)], out, OPTIONS, Progress())
    assert (tally.done, tally.failed) == (1, 1)
    assert capsys.readouterr().err == f"spellstream: {tmp_path}/out/sub: cannot be made: File exists\n"


def test_resume_skips_what_has_all_its_outputs(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "b.wav", "c.wav")
    files(tmp_path / "out", "a.wav.txt", "a.wav.json", "b.wav.txt")
    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt", "json"])
    stub = Stub()
    tally = run(stub, [str(folder)], out, RESUME, Progress())
    assert (tally.done, tally.skipped) == (2, 1)
    assert sorted(stub.heard) == [f"{folder}/b.wav", f"{folder}/c.wav"]
    assert run(stub, [str(folder)], out, RESUME, Progress()).skipped == 3


def test_an_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", *(f"{number}.wav" for number in range(9)))

    class Interrupted(Stub):
        def outcome(self, source: str) -> Any:
            if len(self.heard) == 5:
                raise KeyboardInterrupt
            return super().outcome(source)

    out = OutputFolder(tmp_path / "out", [str(folder)], ["txt"])
    with pytest.raises(KeyboardInterrupt, match="transcripts finished and kept: 5"):
        run(Interrupted(), [str(folder)], out, OPTIONS, Progress())
    assert len(below(tmp_path / "out")) == 5


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, "tests")
import tests.asr.archive.test_batch as t
from asr.archive.batch import OutputFolder, run
folder, kill_at = sys.argv[1], int(sys.argv[2])
fsync, calls = os.fsync, 0

def dying(descriptor):  # in the middle of writing
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = dying
stub = t.Stub()
out = OutputFolder(pathlib.Path(folder, "out"), [folder + "/in"], ["txt", "json"])
run(stub, [folder + "/in"], out, t.RESUME, t.Progress())
print(len(stub.heard))
"""


def test_killed_is_not_lost(tmp_path: Path, repository_root: Path) -> None:
    """Whatever moment the kill comes at: no file holds a part, and the next run does the rest alone."""
    files(tmp_path / "in", *(f"{number}.wav" for number in range(10)))

    def start(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(kill_at)]
        return subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=False)

    done = 0
    for kill_at in (6, 9):  # in the json of the third, in the text of the fifth of those left
        killed = start(kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        visible = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
        for path in visible:
            assert path.read_text().endswith("again\n" if path.suffix == ".txt" else "}\n"), path
        done += (kill_at - 1) // 2
        assert sum(path.suffix == ".json" for path in visible) == done
    finished = start(0)
    assert finished.stdout == f"{10 - done}\n", finished.stderr
    for number in range(10):
        assert (tmp_path / f"out/{number}.wav.txt").read_text() == f"{number}\nagain\n"
        assert json.loads((tmp_path / f"out/{number}.wav.json").read_text())["text"] == f"{number} again"


def test_ten_thousand_files_run_in_flat_memory(tmp_path: Path) -> None:
    folder = files(tmp_path, *(f"{number % 10}/{number}.wav" for number in range(10_000)))

    class Long(Stub):
        def outcome(self, source: str) -> Any:
            return source, transcript_of(source, source + "x" * 20_000), None  # 200 MB in all

    class Nowhere(Sink):
        written = 0

        def holds(self, source: str) -> bool:
            return False

        def write(self, source: str, transcript: Transcript, error: SpellstreamError | None = None) -> None:
            self.written += 1

    sink = Nowhere()
    tracemalloc.start()
    try:
        tally = run(Long(), [str(folder)], sink, RESUME, Progress())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tally.done == sink.written == 10_000
    assert peak < 8 << 20, f"{peak / 2**20:.1f} MiB at the peak"
