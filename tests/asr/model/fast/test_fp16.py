"""Weights packed for a CPU: half the memory to read, and the same results."""

from __future__ import annotations

import copy
import platform

import pytest
import torch
from torch import nn

import asr
from asr.config import DecoderConfig, EncoderConfig, LmConfig, ModelConfig
from asr.model.fast import bf16, int8
from asr.model.fast.fp16 import available, pack
from asr.model.internal_lm import DensityRatio, InternalLm
from asr.model.las import Model
from asr.model.lm import LanguageModel

pytestmark = pytest.mark.skipif(not available(), reason="packed weights need FBGEMM: x86 with AVX2")


def halved(module: nn.Module) -> nn.Module:
    """Round weights to float16, like those of a checkpoint."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.half())
    return module.eval()


def packed_parts(module: nn.Module) -> int:
    return sum(type(part).__module__ == pack.__module__ for part in module.modules())


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    """A model and its packed copy."""
    torch.manual_seed(3)
    config = ModelConfig(
        20, encoder=EncoderConfig((3, 2), 32), decoder=DecoderConfig(hidden_size=48, embedding_size=16)
    )
    model = halved(Model(config))
    assert isinstance(model, Model)
    return model, pack(copy.deepcopy(model))


@torch.inference_mode()
@pytest.mark.parametrize("frames", [40, 3_000], ids=["a chunk of a stream", "a whole file"])
def test_a_packed_encoder_says_the_same(pair: tuple[Model, Model], frames: int) -> None:
    features, lengths = torch.randn(2, frames, pair[0].config.features.n_mels), torch.tensor([frames, frames // 2])
    one, other = (model.encoder(features, lengths)[0] for model in pair)
    torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_packed_decoder_says_the_same(pair: tuple[Model, Model]) -> None:
    encoder_out, lengths = torch.randn(3, 20, pair[0].config.encoder.output_size), torch.tensor([20, 11, 1])
    said = []
    for model in pair:
        memory = model.decoder.prepare(encoder_out, lengths)
        state = model.decoder.initial_state(memory)
        for token in (4, 7, 5, 9):
            readout, state = model.decoder.step(torch.full((3,), token), state, memory)
        said.append((model.decoder.logits(readout), model.ctc_log_probs(encoder_out), *state))
    torch.testing.assert_close(said[1], said[0], atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("layers", [1, 2])
def test_a_packed_language_model_says_the_same(layers: int) -> None:
    lm = halved(LanguageModel(LmConfig(12, embedding_size=8, hidden_size=16, layers=layers)))
    assert isinstance(lm, LanguageModel)
    said = []
    for model in (lm, pack(copy.deepcopy(lm))):
        log_probs, state = model.step(torch.tensor([5, 6]), model.initial_state(2))
        said.append((log_probs, *model.step(torch.tensor([7, 7]), state)))
    torch.testing.assert_close(said[1], said[0], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [3, 200], ids=["a stream", "a wide beam"])
def test_a_packed_gru_cell_says_the_same(rows: int) -> None:
    cells = nn.Sequential(nn.GRUCell(10, 16))
    halved(cells)
    packed = pack(copy.deepcopy(cells))
    assert packed_parts(packed) == 1
    x, h = torch.randn(rows, 10), torch.randn(rows, 16)
    torch.testing.assert_close(packed[0](x, h), cells[0](x, h), atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[0](x), cells[0](x), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_what_is_said_of_a_row_does_not_depend_on_the_others(pair: tuple[Model, Model]) -> None:
    """Each row has a result of its own: int8 with one scale per batch would let a loud stream coarsen all others."""
    features = torch.randn(5, 40, pair[1].config.features.n_mels) * torch.tensor([1.0, 100, 1, 1, 1])[:, None, None]
    together, _ = pair[1].encoder(features, torch.full((5,), 40))
    alone, _ = pair[1].encoder(features[:1], torch.tensor([40]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_only_what_float16_holds_exactly_is_packed(pair: tuple[Model, Model]) -> None:
    """A model whose weights float16 cannot hold exactly must not be rounded unasked."""
    model = halved(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LSTMCell(4, 4)))
    with torch.no_grad():
        model[0].weight[2, 1] = 0.1
        model[2].weight_hh[0, 0] = 1e6
    pack(model)
    assert [packed_parts(part) for part in model] == [0, 1, 0]
    assert packed_parts(pair[1]) > 8


def test_a_product_with_a_vector_is_left_alone() -> None:
    """The packed product with a vector made attention scores of many hypotheses three times slower."""
    one, two = nn.Linear(8, 1).half().float(), nn.Linear(8, 2).half().float()
    assert [type(part) is nn.Linear for part in pack(nn.Sequential(one, two))] == [True, False]


def test_an_lstm_of_another_kind_is_left_alone() -> None:
    """A packed bidirectional LSTM lost its backward direction."""
    parts = nn.Sequential(nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.LSTM(3, 4), nn.LSTM(3, 4, bias=False))
    assert packed_parts(pack(halved(parts))) == 0


def test_another_processor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ARM, PyTorch lists FBGEMM but lacks its float16 kernels: every recognition would fail."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert packed_parts(pack(halved(nn.Sequential(nn.Linear(4, 4))))) == 0


def test_a_model_that_is_loaded_for_a_cpu_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (int8, bf16):
        monkeypatch.setattr(other, "_work", lambda: False)
    shipped = asr.load(device="cpu")
    lm = shipped.language_model(shipped.model.config.search)
    assert isinstance(lm, DensityRatio)
    assert isinstance(lm.lm, LanguageModel)
    assert isinstance(lm.internal, InternalLm)
    assert packed_parts(shipped.model) > 8
    assert packed_parts(lm.lm) == 2
    assert packed_parts(lm.internal) == 3
    assert packed_parts(asr.load(device="cpu", dtype="bfloat16").model) == 0
