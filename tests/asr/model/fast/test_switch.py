"""One switch turns all fast paths off, and plain PyTorch gives the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asr.config import AttentionConfig, DecoderConfig
from asr.model.decoder import Decoder
from asr.model.fast import decoder_loop, enabled, fast_paths
from asr.model.fast.fp16 import available, pack
from asr.model.recurrent import run_lstm
from asr.training.precision import has_bfloat16


def test_the_switch_holds_for_a_block() -> None:
    assert enabled()
    with fast_paths(False):
        assert not enabled()
        with fast_paths(True):
            assert enabled()
        assert not enabled()
    assert enabled()


def test_the_switch_holds_for_threads_too() -> None:
    """Threads that decode kept the fast paths."""
    with ThreadPoolExecutor(1) as threads, fast_paths(False):
        assert not threads.submit(enabled).result()


@pytest.mark.parametrize(("value", "expected"), [("0", "False"), ("1", "True"), (None, "True")])
def test_the_environment_sets_the_switch(repository_root: Path, value: str | None, expected: str) -> None:
    environment = {name: given for name, given in os.environ.items() if name != "SPELLSTREAM_FAST"}
    if value is not None:
        environment["SPELLSTREAM_FAST"] = value
    code = "from asr.model.fast import enabled; print(enabled())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=repository_root, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="on this processor PyTorch has no LSTM in bfloat16")
def test_off_runs_the_lstm_of_pytorch() -> None:
    lstm, x = nn.LSTM(2048, 512, batch_first=True), torch.randn(1, 2, 2048)
    with torch.autocast("cpu", torch.bfloat16), fast_paths(False):
        assert torch.equal(run_lstm(lstm, x), lstm(x)[0])


@pytest.mark.skipif(not available(), reason="packed weights need FBGEMM: x86 with AVX2")
def test_off_packs_nothing() -> None:
    linear = nn.Linear(4, 4).half().float()
    with fast_paths(False):
        assert type(pack(nn.Sequential(linear))[0]) is nn.Linear
    assert type(pack(nn.Sequential(linear))[0]) is not nn.Linear


@pytest.mark.parametrize("attention", ["location", "dot"])
def test_a_decoder_trains_the_same_without_its_fast_loop(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    config = AttentionConfig(scorer=attention, size=6, location_channels=3, location_width=5)  # type: ignore[arg-type]
    decoder = Decoder(9, 8, config, DecoderConfig(layers=2, hidden_size=10, embedding_size=7, dropout=0.0))
    tokens, encoder_out, lengths = torch.randint(9, (2, 5)), torch.randn(2, 11, 8), torch.tensor([11, 6])

    def gradients() -> list[Tensor]:
        logits, alignments = decoder(tokens, encoder_out, lengths)
        loss = logits.square().mean() + alignments.square().mean()
        return [loss, *torch.autograd.grad(loss, list(decoder.parameters()))]

    fast = gradients()
    monkeypatch.setattr(decoder_loop._CellStep, "apply", None)  # fails if the fast path is used
    with fast_paths(False):
        plain = gradients()
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
