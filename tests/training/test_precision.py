"""Training in bfloat16 if the processor supports it, otherwise in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr.training import precision


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="only oneDNN says whether it has kernels")
def test_an_lstm_trains_in_what_the_processor_computes_in() -> None:
    """Without AVX-512 there is no LSTM in bfloat16, and every training ended at its first step.

    The error was "could not create a primitive descriptor for the LSTM forward propagation primitive".
    """
    lstm = nn.LSTM(4, 3, batch_first=True)
    with precision.autocast(torch.device("cpu")):
        found, _ = lstm(torch.randn(2, 5, 4))
    found.float().sum().backward()
    expected = torch.bfloat16 if precision.has_bfloat16("cpu") else torch.float32
    assert found.dtype == expected
    assert lstm.weight_hh_l0.grad is not None


def test_a_processor_without_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.has_bfloat16("cpu")
    with precision.autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_gpu_always_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.has_bfloat16("cuda")
    assert precision.has_bfloat16("auto")
    assert not precision.has_bfloat16("cpu")
