"""Transcription of many files: what survives a failure, an interrupt and a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from asr.archive.batch import run
from asr.archive.sinks import Destination, OutputFiles, Sink
from asr.errors import SpellstreamError
from asr.terminal import Progress
from asr.transcript import Transcript
from tests.support.archive import below, files
from tests.support.commands import Stub, transcript_of


def test_what_fails_is_named_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path / "in", "a.wav", "bad.wav", "sub/c.flac")
    out = OutputFiles(
        [str(folder)],
        Destination(
            folder=tmp_path / "out",
            formats=(
                "txt",
                "srt",
            ),
        ),
    )
    totals = run(Stub().transcribe_many, [str(folder), str(tmp_path / "in" / "sub")], out, Progress())
    assert (totals.done, totals.failed, totals.total) == (3, 1, 4)
    assert below(tmp_path / "out") == ["a.srt", "a.txt", "sub/c.srt", "sub/c.txt"]
    assert (tmp_path / "out/sub/c.txt").read_text() == "c\nagain\n"
    assert capsys.readouterr().err == f"spellstream: {folder}/bad.wav: is not audio\n"


def test_what_cannot_be_written_is_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path / "in", "a.wav", "sub/b.wav")
    files(tmp_path / "out", "sub")  # a file is where a folder should go
    out = OutputFiles([str(folder)], Destination(folder=tmp_path / "out", formats=("txt",)))
    totals = run(Stub().transcribe_many, [str(folder)], out, Progress())
    assert (totals.done, totals.failed) == (1, 1)
    assert capsys.readouterr().err == f"spellstream: {tmp_path}/out/sub: cannot be made: File exists\n"


def test_resume_skips_what_has_all_its_outputs(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "b.wav", "c.wav")
    files(tmp_path / "out", "a.wav.txt", "a.wav.json", "b.wav.txt")
    out = OutputFiles(
        [str(folder)],
        Destination(
            folder=tmp_path / "out",
            formats=(
                "txt",
                "json",
            ),
        ),
    )
    stub = Stub()
    totals = run(stub.transcribe_many, [str(folder)], out, Progress(), resume=True)
    assert (totals.done, totals.skipped) == (2, 1)
    assert sorted(stub.heard) == [f"{folder}/b.wav", f"{folder}/c.wav"]
    assert run(stub.transcribe_many, [str(folder)], out, Progress(), resume=True).skipped == 3


def test_an_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", *(f"{number}.wav" for number in range(9)))

    class Interrupted(Stub):
        def outcome(self, source: str) -> Any:
            if len(self.heard) == 5:
                raise KeyboardInterrupt
            return super().outcome(source)

    out = OutputFiles([str(folder)], Destination(folder=tmp_path / "out", formats=("txt",)))
    with pytest.raises(KeyboardInterrupt, match="transcripts finished and kept: 5"):
        run(Interrupted().transcribe_many, [str(folder)], out, Progress())
    assert len(below(tmp_path / "out")) == 5


KILLED = """
import os, pathlib, signal, sys
from asr.archive.batch import run
from asr.archive.sinks import Destination, OutputFiles
from asr.terminal import Progress
from tests.support.commands import Stub
folder, kill_at = sys.argv[1], int(sys.argv[2])
fsync, calls = os.fsync, 0

def dying(descriptor):  # in the middle of writing
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = dying
stub = Stub()
out = OutputFiles([folder + "/in"], Destination(folder=pathlib.Path(folder, "out"), formats=("txt", "json",)))
run(stub.transcribe_many, [folder + "/in"], out, Progress(), resume=True)
print(len(stub.heard))
"""


def test_killed_is_not_lost(tmp_path: Path, repository_root: Path) -> None:
    """Whenever the command is killed, no output file is partial, and the next run transcribes only the rest."""
    files(tmp_path / "in", *(f"{number}.wav" for number in range(10)))

    def start(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(kill_at)]
        return subprocess.run(command, cwd=repository_root, capture_output=True, text=True, check=False)

    done = 0
    for kill_at in (6, 9):  # while writing the third file's json, then the text of the fifth of the remaining files
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
        assert (tmp_path / f"out/{number}.txt").read_text() == f"{number}\nagain\n"
        assert json.loads((tmp_path / f"out/{number}.json").read_text())["text"] == f"{number} again"


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
        totals = run(Long().transcribe_many, [str(folder)], sink, Progress(), resume=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert totals.done == sink.written == 10_000
    assert peak < 8 << 20, f"{peak / 2**20:.1f} MiB at the peak"
