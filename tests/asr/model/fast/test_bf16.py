"""LSTMs in bfloat16: close to float32, and the same in every batch and for every cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import asr
from asr.model.fast import bf16, fast_paths
from asr.model.fast.bf16 import Lstm16, pack
from asr.model.fast.fp16 import pack as pack_in_float16
from asr.writing.punctuation import Punctuator

pytestmark = pytest.mark.usefixtures("inference")
needs_amx = pytest.mark.skipif(not bf16.available(), reason="needs a processor with AMX")


@needs_amx
@pytest.mark.parametrize(("size", "hidden"), [(24, 16), (160, 256), (1024, 256)])
def test_it_is_close_to_float32(size: int, hidden: int) -> None:
    lstm, x = nn.LSTM(size, hidden, batch_first=True), torch.randn(3, 30, size)
    before = torch.randn(1, 3, hidden).tanh(), torch.randn(1, 3, hidden)
    expected, (h, c) = lstm(x, before)
    found, state = Lstm16(lstm)(x, before)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(state, (h, c), atol=0.03, rtol=0)
    torch.testing.assert_close(Lstm16(lstm)(x)[0], lstm(x)[0], atol=0.02, rtol=0)


def shipped_sizes() -> set[tuple[int, int]]:
    """Input and hidden sizes of the LSTMs of the shipped encoder and punctuation model."""
    shipped = asr.load(device="cpu")
    assert isinstance(shipped.writer._tagger, Punctuator)
    networks = shipped.model.encoder, shipped.writer._tagger.network
    lstms = [each for network in networks for each in network.modules() if isinstance(each, nn.LSTM)]
    return {(each.input_size, each.hidden_size) for each in lstms}


@needs_amx
def test_a_row_is_the_same_in_every_batch() -> None:
    """OneDNN's linear layers in bfloat16 give other sums for 5 to 36 rows at some sizes; its LSTMs must not."""
    for size, hidden in {(24, 16), (512, 512), (2048, 512), *shipped_sizes()}:
        lstm, x = Lstm16(nn.LSTM(size, hidden, batch_first=True)), torch.randn(600, 5, size)
        together, _ = lstm(x)
        for rows in (1, 2, 5, 7, 16, 17, 36, 50, 300):
            assert torch.equal(lstm(x[:rows])[0], together[:rows]), (size, hidden, rows)
            assert torch.equal(lstm(x[-rows:, :4])[0], together[-rows:, :4]), (size, hidden, rows)


@needs_amx
@pytest.mark.parametrize("cut", [1, 5, 29])
def test_a_cut_changes_nothing(cut: int) -> None:
    lstm, x = Lstm16(nn.LSTM(20, 16, batch_first=True)), 3 * torch.randn(4, 30, 20)
    whole, state = lstm(x)
    first, between = lstm(x[:, :cut])
    rest, last = lstm(x[:, cut:], between)
    assert torch.equal(torch.cat([first, rest], dim=1), whole)
    assert all(map(torch.equal, last, state))


@needs_amx
def test_other_kinds_stay_as_they_are() -> None:
    kinds = nn.ModuleList(
        [
            nn.LSTM(8, 8, batch_first=True, bidirectional=True),
            nn.LSTM(8, 8, batch_first=True, num_layers=2),
            nn.LSTM(8, 8, batch_first=True, proj_size=4),
            nn.LSTM(8, 8, batch_first=True, bias=False),
            nn.LSTM(8, 8),
            nn.LSTM(8, 8, batch_first=True).bfloat16(),
            nn.GRU(8, 8, batch_first=True),
        ]
    )
    assert not any(isinstance(each, Lstm16) for each in pack(kinds))
    inside = nn.ModuleList([nn.Sequential(nn.LSTM(8, 8, batch_first=True))])
    with fast_paths(False):
        assert not any(isinstance(each, Lstm16) for each in pack(inside).modules())
    assert any(isinstance(each, Lstm16) for each in pack(pack_in_float16(inside)).modules())


@pytest.mark.parametrize("fails", ["no AMX", "missing", "refuses"])
def test_without_the_kernels_nothing_changes(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's functions for packed LSTMs are private: a version without them must still load a model."""

    def refuse(*_: object) -> None:
        raise {"missing": AttributeError, "refuses": RuntimeError, "no AMX": AssertionError}[fails]("no such kernel")

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fails != "no AMX")
    monkeypatch.setattr(Lstm16, "__init__", refuse)
    monkeypatch.setattr(bf16, "_work", bf16._work.__wrapped__)  # without its cache
    assert not bf16.available()
    module = pack(nn.Sequential(nn.LSTM(8, 8, batch_first=True)))
    assert type(module[0]) is nn.LSTM


def test_a_model_that_is_loaded_for_a_cpu_has_them_where_they_are_fast() -> None:
    shipped = asr.load(device="cpu")
    assert all(isinstance(each.forward_lstm, Lstm16) == bf16.available() for each in shipped.model.encoder.layers)
    tagger = shipped.writer._tagger
    assert isinstance(tagger, Punctuator)
    lstms = [each for each in tagger.network.modules() if isinstance(each, nn.LSTM)]
    assert lstms
    assert all(isinstance(each, Lstm16) == bf16.available() for each in lstms)
    half = asr.load(device="cpu", dtype="bfloat16")
    assert not any(isinstance(each, Lstm16) for each in half.model.modules())
