"""The commands train, plot and info, with stubs for the functions that they call."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import asr
from tests.support.archive import files
from tests.support.commands import Command, StubRecogniser

TRAIN = ("train", "--data", "data", "--dev", "dev", "--output", "run", "--config")


@pytest.mark.parametrize("arguments", [(*TRAIN, "a.toml"), ("statistics", "prepared")])
def test_a_missing_extra_says_what_to_install(
    arguments: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("asr.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    expected = "spellstream: the package lightning is missing: pip install 'spellstream[train]'\n"
    assert command(*arguments) == (1, "", expected)


def test_plot(command: Command, stub: StubRecogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setitem(
        sys.modules,
        "asr.plot",
        types.SimpleNamespace(plot=lambda *given: drawn.append(given), require_matplotlib=lambda: None),
    )
    files(Path("in"), "talk.wav")
    assert command("plot", "in/talk.wav", "--beam-size", 1) == (0, "talk.wav.png\n", "")
    recogniser, source, output, search = drawn[0]
    assert (recogniser, source, output, search.beam_size) == (stub, "in/talk.wav", Path("talk.wav.png"), 1)
    assert command("plot", "-", "--output", "x.png")[0] == 0
    assert drawn[1][1:3] == ("-", Path("x.png"))


def test_info(command: Command) -> None:
    status, out, err = command("info", "--json")
    assert (status, err) == (0, "")
    known = json.loads(out)
    assert known["versions"]["spellstream"] == asr.__version__
    assert known["versions"].keys() >= {"python", "torch", "torchaudio", "libsndfile", "portaudio", "av"}
    assert known["devices"]["cpu"]
    assert known["devices"]["cpu_kernels"][0] == torch.backends.cpu.get_cpu_capability()
    status, out, err = command("info")
    assert (status, err) == (0, "")
    assert f"  spellstream  {asr.__version__}\n" in out
