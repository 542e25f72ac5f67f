"""Archives on a cluster: division of the work, death of an engine or of the command, refused options."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.archive import cluster, cluster_engine
from asr.errors import DataError
from asr.recogniser import Recogniser
from tests.support.commands import Command, Stub, StubRecogniser
from tests.support.small_model import small_model

ROOT = Path(__file__).parents[3]


# --- without Ray ------------------------------------------------------------------------------------------------------


def test_all_engines_get_work_and_no_task_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(count: int, engines: int = 2, batch_size: int = 16, size: int = 0) -> list[int]:
        paths = [tmp_path / f"{number}.wav" for number in range(count)]
        for path in paths if size else ():
            path.write_bytes(bytes(size))
        found = list(cluster.tasks([str(path) for path in paths], engines, batch_size))
        assert [os.fsdecode(path) for task in found for path in task["paths"]] == [str(path) for path in paths]
        assert [task["task"] for task in found] == list(range(len(found)))
        return [len(task["paths"]) for task in found]

    assert cut(3) == [1, 1, 1]
    assert cut(16) == [2] * 8
    assert cut(10_000, batch_size=4) == [32] * 312 + [16]
    monkeypatch.setattr(cluster, "TASK_BYTES", 250)
    assert cut(40, engines=1, size=100) == [2] * 20
    assert cut(20, engines=1, size=300) == [1] * 20


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> cluster_engine.ClusterEngine:
    """An engine in this process, with a stub for its recogniser."""
    counts = cluster_engine.Attempts()

    def remote(method: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(remote=method)

    handle = types.SimpleNamespace(begin=remote(counts.begin), end=remote(counts.end))
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda value: value))
    monkeypatch.setattr(Recogniser, "load", lambda *_, **__: Stub())
    return cluster_engine.ClusterEngine(cluster_engine.Setup("m", "cpu", "float32", None, 1), {}, handle)


def reasons(rows: list[dict[str, bytes]]) -> dict[str, str]:
    return {os.fsdecode(row["path"]): row["reason"].decode() for row in rows}


def test_a_file_that_kills_engines_takes_no_other_with_it(
    engine: cluster_engine.ClusterEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"task": 7, "paths": [b"/a.wav", b"/killer.wav", b"/bad.wav"]}
    outcome = Stub.outcome

    def dying(stub: Stub, source: str) -> Any:
        if "killer" in source:
            raise SystemExit  # as close as a test gets
        return outcome(stub, source)

    monkeypatch.setattr(Stub, "outcome", dying)
    for _ in range(3):
        with pytest.raises(SystemExit):
            engine(task)
    assert reasons(engine(task)) == {
        "/a.wav": "",
        "/killer.wav": "the process that transcribed it died each time",
        "/bad.wav": "is not audio",
    }


def test_work_that_was_finished_and_is_done_again_is_no_death(engine: cluster_engine.ClusterEngine) -> None:
    task = {"task": 0, "paths": [b"/a.wav"]}
    assert [reasons(engine(task)) for _ in range(5)] == [{"/a.wav": ""}] * 5


def test_what_is_wrong_with_one_file_is_not_the_end_of_all(
    engine: cluster_engine.ClusterEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stub: Stub, source: str) -> Any:
        raise MemoryError("no room\nfor 8 GB")

    monkeypatch.setattr(Stub, "outcome", full)
    rows = engine({"task": 0, "paths": [b"/a.wav", b"/b.wav"]})
    assert reasons(rows) == {"/a.wav": "MemoryError: for 8 GB", "/b.wav": "MemoryError: for 8 GB"}


def test_files_that_fit_one_by_one_are_not_lost_with_their_batch(
    engine: cluster_engine.ClusterEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory once failed up to 128 files that had not been read."""
    together = Stub.transcribe_many

    def cramped(stub: Stub, sources: Any, **options: Any) -> Any:
        for number, outcome in enumerate(together(stub, sources, **options)):
            if number == 1:
                raise MemoryError("no room")
            yield outcome

    monkeypatch.setattr(Stub, "transcribe_many", cramped)
    rows = engine({"task": 0, "paths": [b"/a.wav", b"/b.wav", b"/c.wav"]})
    assert reasons(rows) == {"/a.wav": "", "/b.wav": "", "/c.wav": ""}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:{port}", "cannot be reached: Connection refused"),
        ("ray://127.0.0.1:{port}", "Ray Client is not supported; run it on a node (auto), or by ray job submit\n"),
        ("no-such-host.invalid:6379", "cannot be reached: "),
        ("somewhere", "not the address of a Ray cluster; expected local, auto or HOST:PORT"),
        ("host:port", "not the address of a Ray cluster; expected local, auto or HOST:PORT"),
    ],
)
def test_an_address_where_nothing_is(address: str, reason: str, command: Command, stub: StubRecogniser) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = address.format(port=taken.getsockname()[1])
        status, out, err = command("transcribe", "a.wav", "--ray", address)
    assert (status, out) == (1, "")
    assert err.startswith(f"spellstream: {address}: {reason}")
    assert err.count("\n") == 1
    assert stub.asked["load"][1] == "cpu"  # the command's own machine needs no GPU


@pytest.mark.parametrize("loaded", ["/models/default", "default"])
def test_engines_load_the_model_that_was_checked(
    command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: str
) -> None:
    """A folder in the working directory with the name of a shipped model was given to the engines in its place."""
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    stub.folder = Path(loaded)
    asked: list[cluster_engine.Setup] = []

    def unreachable(address: str, setup: cluster_engine.Setup, engines: int | None) -> None:
        asked.append(setup)
        raise DataError("not today")

    monkeypatch.setattr(cluster, "Cluster", unreachable)
    (tmp_path / "a.wav").touch()
    assert command("transcribe", "a.wav", "--ray", "local")[0] == 1
    assert asked[0].model == ("default" if loaded != "default" else str(tmp_path / "default"))


def test_a_missing_ray_says_what_to_install(
    command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = "spellstream: the package ray is missing: pip install 'spellstream[ray]'\n"
    assert command("transcribe", "a.wav", "--ray", "local") == (1, "", expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("a.wav --engines 2", "Invalid value for --engines: it needs --ray"),
        ("- --ray local", "Invalid value for --ray: a cluster cannot read standard input"),
        (
            "a.wav --output x.jsonl --output-dir out",
            "Invalid value for --output-dir and --output: there can be only one of these",
        ),
        (
            "a.wav --output x.jsonl --format srt",
            "Invalid value for --format: rows have the content of json; leave it out",
        ),
        (
            "a.wav --output x.csv",
            "Invalid value for --output: x.csv: expected a name that ends in .txt, .json, .srt, .vtt, .tsv, .jsonl, "
            ".parquet; for a folder use --output-dir",
        ),
    ],
)
def test_wrong_use(options: str, reason: str, command: Command, stub: StubRecogniser) -> None:
    status, out, err = command("transcribe", *options.split())
    assert (status, out) == (2, "")
    assert err == f"spellstream: {reason} (see spellstream transcribe --help)\n"


def test_rows_without_a_cluster(tmp_path: Path, command: Command, stub: StubRecogniser) -> None:
    output = tmp_path / "rows.jsonl"
    expected = "spellstream: bad.wav: is not audio\nspellstream: 1 of 2 failed\n"
    assert command("transcribe", "a.wav", "bad.wav", "--output", output) == (1, "", expected)
    assert stub.asked["word_timestamps"]
    rows = {Path(row["source"]).name: row["error"] for row in map(json.loads, output.read_text().splitlines())}
    assert rows == {"a.wav": None, "bad.wav": "is not audio"}
    status, _, err = command("transcribe", "a.wav", "--output", output)
    assert status == 2
    assert f"{output} exists already: --resume continues it" in err
    assert command("transcribe", "a.wav", "--output", output, "--resume") == (0, "", "")


# --- with Ray: two engines on this machine ----------------------------------------------------------------------------


class Archive:
    """Recordings, one of them broken, and the command that transcribes them to rows."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.output = folder, folder / "rows.jsonl"
        self.model = small_model(folder / "model")
        speech, rate = soundfile.read(ROOT / "recipes" / "sample.flac")
        (folder / "in").mkdir()
        for number in range(count):
            soundfile.write(folder / "in" / f"{number:03}.wav", np.roll(speech, 100 * number)[: 4 * rate], rate)
        (folder / "in" / "bad.wav").write_text("no audio")
        self.names = sorted(path.name for path in (folder / "in").iterdir())

    def start(self) -> subprocess.Popen[str]:
        words = f"transcribe in --model {self.model} --output rows.jsonl --resume --ray local --engines 2".split()
        # Ray would start its workers with the lowest priority, too slow for tests on a busy machine.
        environment = os.environ | {"RAY_worker_niceness": "0"}
        return subprocess.Popen(
            [sys.executable, "-m", "asr", *words],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self) -> list[dict[str, Any]]:
        """The complete rows."""
        lines = self.output.read_bytes().split(b"\n")[:-1] if self.output.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for_rows(self, count: int, process: subprocess.Popen[str]) -> None:
        while len(self.rows()) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for the end of a run with one bad file; return standard error."""
        out, err = process.communicate()
        assert (process.returncode, out) == (1, ""), err
        return err

    def assert_complete(self) -> None:
        assert Counter(Path(row["source"]).name for row in self.rows()) == Counter(self.names)
        failed = {Path(row["source"]).name: row["error"] for row in self.rows() if row["error"] is not None}
        assert list(failed) == ["bad.wav"]
        assert all(row["duration_seconds"] == 4.0 and row["text"] for row in self.rows() if row["error"] is None)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path, 64)


def engines_of(driver: int) -> Iterator[int]:
    """The processes of a run's engines, from Linux's /proc."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if b"FlatMap(ClusterEngine)" in (entry / "cmdline").read_bytes() and driver in ancestors(int(entry.name)):
                yield int(entry.name)


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        yield process


@pytest.mark.ray
def test_an_engine_is_killed_midway(archive: Archive) -> None:
    process = archive.start()
    archive.wait_for_rows(1, process)
    before = set(engines_of(process.pid))
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    assert len(archive.rows()) < len(archive.names) // 2
    err = archive.finish(process)
    archive.assert_complete()
    begun, bad, summary, failed = (
        line for line in err.splitlines() if " files, " not in line and not line.startswith("spellstream: loading ")
    )
    assert begun == "spellstream: 2 engines on the cluster local are loading the model"
    assert bad.startswith("spellstream: in/bad.wav: ")
    assert summary.startswith("spellstream: 0.07 h of audio in ")
    assert summary.endswith(" hours per hour")
    assert failed == f"spellstream: 1 of {len(archive.names)} failed"


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_is_killed_midway(archive: Archive) -> None:
    process = archive.start()
    archive.wait_for_rows(10, process)
    process.kill()
    process.communicate()
    kept = [row for row in archive.rows() if row["error"] is None]
    assert 9 <= len(kept) < len(archive.names)
    archive.finish(archive.start())
    archive.assert_complete()
    assert archive.rows()[: len(kept)] == kept
    done = archive.output.read_bytes()
    archive.finish(archive.start())  # only the broken recording is left
    assert len(archive.output.read_bytes()) == len(done)


@pytest.mark.ray
@pytest.mark.slow
def test_something_else_listens_at_the_address(archive: Archive) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        arguments = ["transcribe", "in", "--quiet", "--model", str(archive.model), "--ray", address]
        command = [sys.executable, "-m", "asr", *arguments]
        done = subprocess.run(command, cwd=archive.folder, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"spellstream: {address}: no Ray cluster can be used there: ")
    assert done.stderr.count("\n") == 1
