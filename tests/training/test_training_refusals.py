"""Refused runs: one line names the reason, and the run's folder stays unchanged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.config import DecoderConfig
from asr.errors import CheckpointError, DataError, DeviceError, SpellstreamError
from asr.training.config import DataConfig, TrainConfig
from asr.training.run import Machine, train
from tests.support.tiny_run import RUN, KilledError, Witness

CPU = Machine("cpu")


@pytest.fixture
def run(packed: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train on the tiny corpus into a folder of the given name."""

    def run(name: str = "run", config: TrainConfig = RUN) -> Path:
        return train(config, [packed], packed, tmp_path / name, machine=CPU)

    return run


def test_what_does_not_fit_is_one_line(
    run: Callable[..., Path], packed: Path, tmp_path: Path, witness: Witness
) -> None:
    """Another model than the run's, a damaged save, no noise, no device or no utterances: one line each."""

    def said(kind: type[SpellstreamError], *arguments: Any, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            run(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    witness.kill_at(4)
    with pytest.raises(KilledError):
        run()
    witness.kill_at(None)
    wider = dataclasses.replace(RUN, decoder=DecoderConfig(hidden_size=10, embedding_size=4))
    message = said(CheckpointError, config=wider)
    assert "another model" in message
    assert "(32, 6)" in message or "decoder" in message
    deeper = dataclasses.replace(RUN, encoder=dataclasses.replace(RUN.encoder, joins=(2, 2, 1)))
    assert "encoder.layers.2" in said(CheckpointError, config=deeper)
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert str(last) in said(CheckpointError)
    short = dataclasses.replace(RUN, data=DataConfig(min_seconds=1.9, max_seconds=2, batch_seconds=2, workers=0))
    assert "no utterance is left; left out: 8 shorter than" in said(DataError, "short", short)
    for folder in (tmp_path / "nowhere", tmp_path):
        (tmp_path / "nowhere").mkdir() if folder == tmp_path else None
        with pytest.raises(DataError, match="nowhere"):
            train(RUN, [packed], packed, tmp_path / "x", noise=tmp_path / "nowhere", machine=CPU)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            train(RUN, [packed], packed, tmp_path / "y", machine=Machine("cuda"))


def test_a_refused_run_is_left_as_it_was(run: Callable[..., Path], tmp_path: Path, witness: Witness) -> None:
    """The settings of a run were replaced before its resume was refused, and the message named no folder."""
    witness.kill_at(4)
    with pytest.raises(KilledError):
        run()
    witness.kill_at(None)
    folder = tmp_path / "run"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    wider = dataclasses.replace(RUN, decoder=DecoderConfig(hidden_size=10, embedding_size=4))
    with pytest.raises(CheckpointError, match=re.escape(f"{folder}: the run has another model")):
        run(config=wider)
    short = dataclasses.replace(RUN, data=DataConfig(min_seconds=1.9, max_seconds=2, batch_seconds=2, workers=0))
    with pytest.raises(DataError, match="no utterance is left"):
        run(config=short)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_save_damaged_inside_is_named(run: Callable[..., Path], tmp_path: Path, witness: Witness) -> None:
    """A bad disk or an interrupted copy damages bytes between an intact start and end: torch ended in a traceback."""
    witness.kill_at(4)
    with pytest.raises(KilledError):
        run()
    witness.kill_at(None)
    last = tmp_path / "run" / "last.ckpt"
    whole = last.read_bytes()
    for share in (0.01, 0.3, 0.6):
        start = int(share * len(whole))
        last.write_bytes(whole[:start] + bytes(byte ^ 255 for byte in whole[start:][:2000]) + whole[start + 2000 :])
        with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged, or not a saved run; delete it to start again"):
            run()
    last.write_bytes(whole)
    run()
