"""The training benchmark: both systems get the same batches in turn, and ours learns."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from rich.console import Console
from torch import Tensor

from asr.training.data import Batch
from asr.training.precision import has_bfloat16
from recipes.benchmark import training
from recipes.benchmark.training import OURS, PEER, SIZES, Measurement, System

CPU = torch.device("cpu")
TINY = SIZES["tiny"]


def test_batches_are_of_the_length_asked_for_and_padded_with_nothing() -> None:
    made = training.batches(4, 20.0, TINY.vocab_size, CPU)
    again = training.batches(4, 20.0, TINY.vocab_size, CPU)
    assert len({batch.waveform.shape for batch in made}) > 1
    for batch, other in zip(made, again, strict=True):
        assert torch.equal(batch.waveform, other.waveform)
        assert 10 < batch.waveform.numel() / training.SAMPLE_RATE < 32
        for row, (samples, tokens) in enumerate(zip(batch.samples, batch.token_lengths, strict=True)):
            assert batch.waveform[row, samples:].abs().sum() == 0
            assert batch.tokens[row, tokens:].sum() == 0
            assert batch.tokens[row, :tokens].min() > 3  # no special tokens
        assert batch.tokens.max() < TINY.vocab_size


@pytest.mark.parametrize("dtype", [torch.float32, *([torch.bfloat16] if has_bfloat16("cpu") else [])])
def test_ours_learns_what_it_is_shown(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    system = training.spellstream(TINY, CPU, dtype)
    (batch,) = training.batches(1, 4.0, TINY.vocab_size, CPU)
    before = float(system.forward(batch).detach())
    for _ in range(8):
        system.step(batch)
    assert float(system.forward(batch).detach()) < before - 0.05


@pytest.fixture
def _forgotten_afterwards() -> Iterator[None]:
    """Forget SpeechBrain's lazy modules, which fail when hypothesis iterates over `sys.modules`."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "speechbrain":
            del sys.modules[name]


@pytest.mark.usefixtures("_forgotten_afterwards")
def test_both_sides_are_the_same_network() -> None:
    """Both networks have the same weights except for biases and the peer's projection of the context."""
    pytest.importorskip("speechbrain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer, ours = (make(TINY, CPU, torch.float32) for make in (training.speechbrain, training.spellstream))
        (batch,) = training.batches(1, 4.0, TINY.vocab_size, CPU)
        losses = [float(system.forward(batch).detach()) for system in (peer, ours)]
        peer.step(batch)
    assert peer.parameters == pytest.approx(ours.parameters, rel=0.1)
    # Only the attention losses could be compared (about log 50); the CTC losses are scaled differently.
    assert all(0 < loss < 1_000 for loss in losses)


def system(name: str, calls: list[str], loss: Callable[[Batch], Tensor]) -> System:
    return System(name, lambda batch: calls.append(name), loss, 7)


def test_systems_take_turns_step_by_step() -> None:
    calls: list[str] = []
    weight = torch.ones(1, requires_grad=True)
    sides = [system(name, calls, lambda batch: (weight * batch.waveform).exp().sum()) for name in ("a", "b")]
    work = training.batches(3, 4.0, TINY.vocab_size, CPU)
    measurements = training.measure(sides, work, CPU)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first two to warm up
    assert len({measured.audio_seconds for measured in measurements}) == 1
    largest = 4 * max(batch.waveform.numel() for batch in work)
    assert all(
        largest <= measured.memory_bytes <= 3 * largest for measured in measurements
    )  # saved by exp and by the product


def test_the_table_compares_throughput() -> None:
    """The speed-up is a median: a single slow step does not decide it."""
    peer = Measurement(PEER, 8_400_000, 300 * 2**20, 600, cpu_seconds=[2, 4, 4], wall_seconds=[10, 20, 10])
    ours = Measurement(OURS, 8_400_000, 200 * 2**20, 600, cpu_seconds=[1, 2, 3], wall_seconds=[2, 5, 3])
    for cpu, rates in ((True, ("60.0", "100.0", "2.00")), (False, ("15.0", "60.0", "4.00"))):
        console = Console(width=140, record=True, file=sys.stderr)
        console.print(training.table({"small": [peer, ours]}, cpu))
        text = console.export_text()
        assert all(rate in text for rate in (*rates, "200", "300", "8.4"))
    found = json.loads(json.dumps(training.to_json({"small": [peer, ours]}, {"command": "x"})))
    assert [row["system"] for row in found["systems"]] == [PEER, OURS]


def test_a_missing_peer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "speechbrain.lobes.features", None)
    assert training.main(["--size", "tiny", "--steps", "1"]) == 1
    assert capsys.readouterr().err == "error: SpeechBrain is not installed: pip install 'spellstream[benchmark]'\n"


def test_a_processor_without_bfloat16_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    assert training.main(["--size", "tiny", "--steps", "1", "--dtype", "bfloat16"]) == 1
    error = "error: bfloat16: this processor has no kernels for training in it; use --dtype float32\n"
    assert capsys.readouterr().err == error
