"""Long jobs decoded by processes: the same transcripts, no file lost, and a prompt end."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import asr
from asr.audio.segment import SegmentConfig
from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.jobs import Decoding
from asr.processes import Processes
from asr.recogniser import Recogniser
from asr.steps import Steps
from asr.transcript import Segment
from asr.writing.hotwords import Hotwords
from tests.support.small_model import small_model

ALL = SegmentConfig(presence_threshold=0.0)
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked only on Linux")
SECONDS = np.random.default_rng(0).uniform(0.3, 1.0, 20)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty noises of different lengths: a long job for batches of one, of which eight are read ahead."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for number, seconds in enumerate(SECONDS):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.1, int(seconds * 16_000)), 16_000)
    return sorted(folder.iterdir())


def heard(recogniser: Recogniser, clips: Iterable[Path], processes: Processes | None) -> dict[Path, str]:
    """The text or the error of each clip; each has one outcome."""
    outcomes = list(recogniser.transcribe_many(clips, segment=ALL, batch_size=1, processes=processes))
    found = {o.source: o.transcript.text if o.transcript else f"error: {o.error}" for o in outcomes}
    assert len(found) == len(outcomes)
    return found


class Special(Recogniser):
    """A recogniser for tests, which also fails in the processes."""

    def __init__(self, folder: Path) -> None:
        loaded = asr.load(str(folder), device="cpu")
        super().__init__(loaded.model, loaded.tokenizer, loaded.device, loaded.dtype, folder, None)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), self.folder), ()

    @property
    def is_apart(self) -> bool:
        """Whether this is a copy in a process."""
        return multiprocessing.parent_process() is not None


class UnlikeOthersError(Exception):
    """Cannot be made from its arguments, so that it cannot be sent to another process."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} of {two}")


class Cramped(Special):
    """Fails in each process with clips of between 0.9 and 1 s."""

    def decode_steps(self, waveforms: Sequence[Tensor], *options: Any) -> Steps[list[Segment]]:
        if self.is_apart and len(waveforms[0]) > 0.9 * 16_000:
            raise UnlikeOthersError(1, 2)
        return (yield from super().decode_steps(waveforms, *options))


class Mortal(Special):
    """Its processes die at their first batch."""

    def decode_steps(
        self, waveforms: Sequence[Tensor], config: SearchConfig, word_timestamps: bool, hotwords: Hotwords | None = None
    ) -> Steps[list[Segment]]:
        if self.is_apart:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode_steps(waveforms, config, word_timestamps, hotwords)


class Endless(Special):
    """Its processes never finish a batch."""

    def decode_steps(self, waveforms: Sequence[Tensor], *options: Any) -> Steps[list[Segment]]:
        while self.is_apart:
            time.sleep(0.01)
            yield
        return (yield from super().decode_steps(waveforms, *options))


@pytest.mark.parametrize("forks", [pytest.param(True, marks=NEEDS_LINUX), False], ids=["forked", "spawned"])
def test_processes_hear_what_threads_hear(
    model_folder: Path, clips: list[Path], forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same texts; a clip that fails in a process is named, whatever the error.

    An error that cannot be made from its arguments would break the connection to the process.
    """
    monkeypatch.setattr("asr.processes._FORKS", forks)
    recogniser = Cramped(model_folder)
    alone = heard(recogniser, clips, None)
    assert len({*alone.values()}) > 10
    with Processes(recogniser, 2) as processes:
        found = heard(recogniser, clips, processes)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()

    failed = {clip for clip, text in found.items() if text.startswith("error")}
    assert 0 < len(failed) < len(clips) / 2
    assert found == alone | {clip: f"error: {clip}: RuntimeError: UnlikeOthersError: 1 of 2" for clip in failed}


def test_short_work_spawns_no_process(model_folder: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes cannot be forked they take seconds to start; the first eight batches are left to threads."""
    monkeypatch.setattr("asr.processes._FORKS", False)
    recogniser = asr.load(str(model_folder), device="cpu")
    with Processes(recogniser, 2) as processes:
        assert len(heard(recogniser, clips[:8], processes)) == 8
        assert not multiprocessing.active_children()


def test_one_process_would_be_of_no_use(model_folder: Path, clips: list[Path]) -> None:
    recogniser = asr.load(str(model_folder), device="cpu")
    with Processes(recogniser, 1) as processes:
        assert len(heard(recogniser, clips, processes)) == len(clips)
        assert not multiprocessing.active_children()


def test_nothing_is_lost_when_processes_die(
    model_folder: Path, clips: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A process may be killed for its memory: all its batches, and those behind them, are decoded nevertheless."""
    recogniser = Mortal(model_folder)
    with Processes(recogniser, 2) as processes:
        assert heard(recogniser, clips, processes) == heard(recogniser, clips, None)
    assert caplog.messages == ["a process has died; its batches are decoded by the main process"]


def test_threads_decode_where_no_process_can_be_started(
    model_folder: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some hosts of cloud functions have no semaphores, others limit the number of processes."""

    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("asr.processes.ProcessPoolExecutor", refused)
    recogniser = asr.load(str(model_folder), device="cpu")
    with Processes(recogniser, 2) as processes:
        assert heard(recogniser, clips, processes) == heard(recogniser, clips, None)
    assert caplog.messages == ["no processes can be started, so threads decode: [Errno 38] Function not implemented"]


@NEEDS_LINUX
@pytest.mark.parametrize("started", [1, 2])
def test_processes_started_before_a_limit_are_ended(
    model_folder: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """Python waited forever, at its exit, for those that had been forked before the limit was reached."""
    begin, begun = multiprocessing.context.ForkProcess.start, itertools.count()

    def limited(process: multiprocessing.context.ForkProcess) -> None:
        if next(begun) == started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        begin(process)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", limited)
    recogniser = asr.load(str(model_folder), device="cpu")
    with Processes(recogniser, 3) as processes:
        assert not multiprocessing.active_children()
        assert heard(recogniser, clips, processes) == heard(recogniser, clips, None)


@NEEDS_LINUX
def test_a_limit_on_threads_is_survived_too(
    model_folder: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's own thread could not start, and its processes waited forever."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recogniser = asr.load(str(model_folder), device="cpu")
    with monkeypatch.context() as limited:
        limited.setattr("concurrent.futures.process._ExecutorManagerThread.start", refused)
        processes = Processes(recogniser, 2).__enter__()
    assert not multiprocessing.active_children()
    assert heard(recogniser, clips, processes) == heard(recogniser, clips, None)
    processes.close()


def test_batches_that_had_not_begun_are_decoded_after_the_context(model_folder: Path, clips: list[Path]) -> None:
    """They were cancelled, and the file read at that moment got the blame."""
    recogniser = asr.load(str(model_folder), device="cpu")
    expected = sorted(heard(recogniser, clips, None))
    with Processes(recogniser, 2) as processes:
        outcomes = recogniser.transcribe_many(clips, segment=ALL, batch_size=1, processes=processes)
        first = next(outcomes)
    rest = [first, *outcomes]
    assert all(outcome.error is None for outcome in rest)
    assert sorted(outcome.source for outcome in rest) == expected


def test_after_the_context_threads_decode(model_folder: Path, clips: list[Path]) -> None:
    """The ended processes were still given work, and the file read at that moment got the blame."""
    recogniser = asr.load(str(model_folder), device="cpu")
    with Processes(recogniser, 2) as processes:
        expected = heard(recogniser, clips, processes)
    assert heard(recogniser, clips, processes) == expected


def test_no_processes_cannot_be_asked_for(model_folder: Path) -> None:
    """0 meant as many as there are threads."""
    with pytest.raises(ConfigError, match="count is 0: it must be at least 1"):
        Processes(asr.load(str(model_folder), device="cpu"), 0)


@NEEDS_LINUX
def test_processes_end_with_a_parent_that_is_killed(model_folder: Path, repository_root: Path) -> None:
    """They would wait for work forever."""
    code = f"""
import multiprocessing, os, signal, asr
with asr.Processes(asr.load({str(model_folder)!r}, device="cpu"), 3):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code]
    # Waits until no process holds the pipe.
    done = subprocess.run(command, cwd=repository_root, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, len(done.stdout.split())) == (-signal.SIGKILL, 3)


def test_leaving_ends_the_work_after_the_step_under_way(model_folder: Path, clips: list[Path]) -> None:
    decoding = Decoding(SearchConfig(beam_size=1), ALL, word_timestamps=False, batch_size=1)
    with Processes(Endless(model_folder), 2) as processes:
        processes.decode([[torch.zeros(16_000)]] * 9, decoding)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


def test_a_gpu_needs_no_processes(model_folder: Path) -> None:
    recogniser = asr.load(str(model_folder), device="cpu")
    recogniser.device = torch.device("cuda")
    assert Processes(recogniser, 2).count == 1


@NEEDS_LINUX
def test_ctrl_c_is_answered_in_one_line(model_folder: Path, repository_root: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches the processes too; a pool interrupted at its start once waited for its processes forever."""
    for number in range(40):
        (tmp_path / f"{number}.flac").symlink_to(repository_root / "recipes" / "sample.flac")
    command = [sys.executable, "-m", "asr", "transcribe", str(tmp_path), "--model", str(model_folder)]
    command += ["--threads", "2", "--batch-size", "1", "--output-dir", str(tmp_path / "texts")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for _ in range(6_000):
            if len(children.read_text().split()) > 1:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    (line,) = error.splitlines()[1:]
    assert line.startswith("spellstream: interrupted")
