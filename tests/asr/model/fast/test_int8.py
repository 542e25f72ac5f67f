"""LSTMs in int8: close to float32, and the same in every batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import asr
from asr.config import DecoderConfig, LmConfig
from asr.model.decoder import Decoder
from asr.model.fast import fast_paths, int8
from asr.model.fast.fp16 import pack
from asr.model.fast.int8_lm import Lm8, quick, quick_internal
from asr.model.internal_lm import DensityRatio, InternalLm
from asr.model.lm import LanguageModel, TokenPredictor
from tests.support.kernels import compiled_kernels
from tests.support.tiny_model import tiny_lm, tiny_model

pytestmark = [
    pytest.mark.usefixtures("inference"),
    pytest.mark.skipif(not int8.available(), reason="int8 needs FBGEMM: x86 with AVX2"),
]
needs_vnni = pytest.mark.skipif(not int8.vnni(), reason="an encoder in int8 needs a processor with VNNI")


def of_rows(linear: int8.Linear8, x: Tensor) -> Tensor:
    whole, step = int8.rounded_rows(x)
    return linear.of_whole(whole) * step


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_that_of_the_rounded_numbers(rows: int, packed: bool) -> None:
    weight, x = torch.randn(24, 16), torch.rand(rows, 16) * 2 - 1
    scale = weight.abs().amax(1) / 127
    rounded = (weight / scale[:, None]).round() * scale[:, None]
    linear = int8.Linear8(weight, packed)
    units = (x * int8.largest()).round() / int8.largest()
    torch.testing.assert_close(linear.of_units(x), units @ rounded.t(), atol=1e-5, rtol=0)
    step = x.abs().amax(1, keepdim=True) / int8.largest()
    torch.testing.assert_close(of_rows(linear, x), (x / step).round() * step @ rounded.t(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_row_does_not_depend_on_a_loud_neighbour(packed: bool) -> None:
    linear, x = int8.Linear8(torch.randn(24, 16), packed), torch.randn(3, 2, 16)
    loud = x.clone()
    loud[1] *= 1000
    assert torch.equal(of_rows(linear, x)[0], of_rows(linear, loud)[0])
    assert torch.equal(of_rows(linear, x[:1]), of_rows(linear, x)[:1])


def test_packed_weights_give_the_same_bit_for_bit() -> None:
    weight, x = torch.randn(40, 70), torch.rand(9, 70) * 2 - 1
    plain, packed = int8.Linear8(weight), int8.Linear8(weight, packed=True)
    assert torch.equal(plain.of_units(x), packed.of_units(x))
    assert torch.equal(of_rows(plain, 9 * x), of_rows(packed, 9 * x))


@pytest.mark.parametrize("packed", [False, True])
def test_the_largest_sums_do_not_overflow(packed: bool) -> None:
    """Without VNNI, FBGEMM's sums of two products overflow with 8-bit inputs: results were off by 99 %."""
    weight = torch.ones(4, 512) * torch.tensor([1.0, -1.0, 0.5, 2.0])[:, None]
    linear = int8.Linear8(weight, packed)
    for sign in (1.0, -1.0):
        found = linear.of_units(torch.full((3, 512), sign))
        torch.testing.assert_close(found, sign * weight.sum(1).expand(3, -1), rtol=1e-5, atol=0)


@needs_vnni
def test_few_numbers_of_rows_have_a_kernel_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    """A kernel of oneDNN was compiled for each number of rows, which took several times as long as running it.

    The number of hypotheses changes at most steps of a search, so that a new process was slow at its first files.
    """
    linear = int8.Linear8(torch.randn(136, 264), packed=True)
    with compiled_kernels(capfd) as compiled:
        for rows in range(1, 129):
            assert linear.of_units(torch.rand(rows, 264)).shape == (rows, 136)
    assert len(compiled) <= 2 * 8  # a product, and a change of its layout


@pytest.mark.parametrize("rows", [1, 16, 17, 200, 513, 4_000])
def test_few_rows_are_added(rows: int) -> None:
    assert rows <= int8.rounded_up(rows) < rows + max(16, rows / 8)
    assert int8.rounded_up(int8.rounded_up(rows)) == int8.rounded_up(rows)


def test_silence_stays_silence() -> None:
    linear = int8.Linear8(torch.zeros(8, 16))
    assert not of_rows(linear, torch.zeros(2, 16)).any()
    assert not of_rows(int8.Linear8(torch.randn(8, 16)), torch.zeros(2, 16)).any()


def steps(lm: TokenPredictor | InternalLm | Lm8, tokens: Tensor) -> Tensor:
    """Log-probabilities after each of `tokens` `(N, U)`."""
    state, said = lm.initial_state(len(tokens)), []
    for u in range(tokens.shape[1]):
        log_probs, state = lm.step(tokens[:, u], state)
        said.append(log_probs)
    return torch.stack(said, dim=1)


@pytest.fixture(params=["its own", "the decoder's"])
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel | InternalLm, TokenPredictor | InternalLm | Lm8]:
    """A language model and its int8 copy."""
    if request.param == "its own":
        lm = tiny_lm()
        return lm, quick(lm)
    internal = InternalLm(tiny_model().decoder)
    return internal, quick_internal(internal, LmConfig(20))


def test_a_language_model_says_nearly_the_same(pair: tuple[LanguageModel, Lm8]) -> None:
    tokens = torch.randint(4, 20, (4, 9))
    assert isinstance(pair[1], Lm8)
    plain, rounded = (steps(lm, tokens) for lm in pair)
    assert (rounded - plain).abs().mean() < 0.01
    assert not torch.equal(rounded, plain)


def test_a_language_model_says_the_same_in_every_batch(pair: tuple[LanguageModel, Lm8]) -> None:
    tokens = torch.randint(4, 20, (30, 9))
    together = steps(pair[1], tokens)
    torch.testing.assert_close(steps(pair[1], tokens[:1]), together[:1], atol=1e-6, rtol=0)
    torch.testing.assert_close(steps(pair[1], tokens[7:12]), together[7:12], atol=1e-6, rtol=0)


def test_other_kinds_stay_as_they_are() -> None:
    two_layers = LanguageModel(LmConfig(12, embedding_size=8, hidden_size=16, layers=2))
    assert quick(two_layers) is two_layers
    half = copy.deepcopy(tiny_lm()).bfloat16()
    assert quick(half) is half
    parts = tiny_model().config
    gru = InternalLm(Decoder(20, 16, parts.attention, DecoderConfig(hidden_size=8, embedding_size=8, cell="gru")))
    assert quick_internal(gru, LmConfig(20)) is gru
    with fast_paths(False):
        assert quick(lm := tiny_lm()) is lm


@pytest.mark.parametrize("fails", ["missing", "refuses"])
def test_a_pytorch_without_the_kernels_leaves_float16(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch will remove tensors of dtype qint8: without VNNI, no language model could then be loaded."""

    def refuse(*_: object) -> None:
        raise RuntimeError("qint8 tensors are no longer supported")

    half = tiny_lm().half().float()  # as saved
    expected = steps(half, tokens := torch.randint(4, 12, (3, 6)))
    monkeypatch.setattr(int8, "vnni", lambda: False)
    monkeypatch.setattr(int8, "_work", int8._work.__wrapped__)  # without its cache
    if fails == "missing":
        monkeypatch.delattr(torch, "_make_per_channel_quantized_tensor")
    else:
        monkeypatch.setattr(torch, "_make_per_channel_quantized_tensor", refuse)
    assert not int8.available()
    packed = pack(half)
    assert quick(packed) is packed
    torch.testing.assert_close(steps(packed, tokens), expected, atol=1e-4, rtol=0)


def test_a_model_that_is_loaded_for_a_cpu_has_them() -> None:
    shipped = asr.load(device="cpu")
    lm = shipped.language_model(shipped.model.config.search)
    assert isinstance(lm, DensityRatio)
    assert isinstance(lm.lm, Lm8)
    assert isinstance(lm.internal, Lm8)
    assert all((layer.quick is not None) == int8.vnni() for layer in shipped.model.encoder.layers)
    half = asr.load(device="cpu", dtype="bfloat16")
    assert all(layer.quick is None for layer in half.model.encoder.layers)
