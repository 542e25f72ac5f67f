"""Decoding in several processes: results in order, and complete even if a process dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from asr.training.corpus.checks import DurationLimits
from asr.training.corpus.readers import Candidate, Problem
from asr.training.corpus.shards import Clip, Found, _in_order


def clip(name: str) -> Clip:
    candidate = Candidate(name, Path(f"{name}.wav"), "a", None, "c")
    return Clip(candidate.audio, [candidate], ["a"])


def decode(one: Clip) -> Found:
    """The name as samples; one file kills its process, like a crash of a decoding library or lack of memory."""
    if one.path.stem == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return [np.frombuffer(one.path.stem.encode("utf-16-le"), np.int16)]


def test_the_death_of_a_process_costs_one_file(tmp_path: Path) -> None:
    """It once ended the whole run, and every later one at the same file."""
    names = [*"abc", "killer", *"defghijklmnopqrstuvw"]
    found = list(_in_order(decode, [clip(name) for name in names], 2))
    assert len(found) == len(names)
    for name, (one,) in zip(names, found, strict=True):
        if name == "killer":
            assert one == Problem("killer", "unreadable audio", "killer.wav: the process that decoded it died")
        else:
            assert isinstance(one, np.ndarray)
            assert one.tobytes().decode("utf-16-le") == name


def test_an_exception_of_a_library_is_one_files_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A headerless `a.raw` raised a TypeError in soundfile, which ended the run in a traceback."""
    from asr.training.corpus import checks

    def breaking(*_: object) -> None:
        raise TypeError("samplerate must be specified")

    monkeypatch.setattr(checks, "_decode", breaking)
    path = tmp_path / "a.raw"
    path.touch()
    (problem,) = checks.examine(path, [Candidate("a", path, "a", None, "c")], ["a"], DurationLimits())
    assert problem == Problem("a", "unreadable audio", f"{path}: TypeError: samplerate must be specified")
