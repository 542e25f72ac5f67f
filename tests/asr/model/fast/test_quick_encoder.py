"""Encoders with quick LSTMs, in bfloat16 or int8: close to float32, and the same in every batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr.config import Context, EncoderConfig, HybridConfig
from asr.model.encoder import Encoder
from asr.model.fast import bf16, int8
from asr.model.fast.bf16 import Lstm16
from asr.model.states import select
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(
    params=[
        pytest.param("bfloat16", marks=pytest.mark.skipif(not bf16.available(), reason="needs a processor with AMX")),
        pytest.param("int8", marks=pytest.mark.skipif(not (int8.available() and int8.vnni()), reason="needs VNNI")),
    ]
)
def quick_encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Encoder, Encoder]:
    """A plain encoder, and a quick one with the same weights."""
    if request.param == "int8":
        monkeypatch.setattr(bf16, "_work", lambda: False)
    plain, quick = tiny_model().encoder, tiny_model().encoder
    quick.load_state_dict(plain.state_dict())
    quick.quicken()
    return plain, quick


def test_it_says_nearly_the_same_and_the_same_in_every_batch(quick_encoder: tuple[Encoder, Encoder]) -> None:
    plain_encoder, encoder = quick_encoder
    features = torch.randn(5, 43, 16)
    plain, after = plain_encoder.preview(features, plain_encoder.initial_state(5), 4)
    rounded, state = encoder.preview(features, encoder.initial_state(5), 4)
    assert 0 < (rounded - plain).abs().mean() < 0.02
    for one, other in zip(state.layers, after.layers, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, atol=0.05, rtol=0)

    # Padding for a longer row changes no row's result.
    lengths = torch.tensor([43, 20, 1, 31, 16])
    inside = torch.arange(43) < lengths[:, None]
    together, _ = encoder.preview(features * inside[..., None], encoder.initial_state(5), 0, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = encoder.preview(features[row : row + 1, :length], encoder.initial_state(1), 0)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])

    # Neither do different numbers of settled frames in a batch; states are the same too.
    settled = torch.tensor([7, 3, 0, 0, 1])
    together, after = encoder.preview(features * inside[..., None], state, settled, lengths)
    for row, (length, count) in enumerate(zip(lengths.tolist(), settled.tolist(), strict=True)):
        rows = slice(row, row + 1)
        alone, own = encoder.preview(features[rows, :length], select(state, rows), count)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        for one, other in zip(select(after, rows).layers, own.layers, strict=True):
            assert all(map(torch.equal, one.hidden, other.hidden))


@pytest.mark.skipif(not bf16.available(), reason="needs a processor with AMX")
@pytest.mark.parametrize("context", [Context.full(), Context(120, 40)])
def test_whole_utterances_in_bfloat16_are_the_same_in_every_batch(context: Context) -> None:
    plain, encoder = tiny_model().encoder, tiny_model().encoder
    encoder.load_state_dict(plain.state_dict())
    encoder.quicken()
    lengths = torch.tensor([43, 20, 1, 31, 16])
    features = torch.randn(5, 43, 16) * (torch.arange(43) < lengths[:, None])[..., None]
    together, frames = encoder(features, lengths, context)
    assert 0 < (together - plain(features, lengths, context)[0]).abs().mean() < 0.02
    for row, (length, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone, _ = encoder(features[row : row + 1, :length], lengths[row : row + 1], context)
        assert torch.equal(together[row, :count], alone[0])


@pytest.mark.skipif(not bf16.available(), reason="needs a processor with AMX")
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("hybrid_layers", [0, 1])
def test_chunks_in_bfloat16_equal_the_whole(bidirectional: bool, hybrid_layers: int) -> None:
    """States are kept in bfloat16 after every frame: if they were not, each chunk would round them once more."""
    config = EncoderConfig(
        joins=(2, 2), hidden_size=16, bidirectional=bidirectional, hybrid=HybridConfig(layers=hybrid_layers, heads=2)
    )
    encoder, context = Encoder(config, input_size=16, hop_ms=10.0).eval(), Context(120, 40)
    encoder.quicken()
    assert all(isinstance(each, Lstm16) for each in encoder.modules() if isinstance(each, nn.LSTM))
    features, state, found = torch.randn(2, 61, 16), encoder.initial_state(2), []
    whole, _ = encoder(features, torch.tensor([61, 61]), context)
    for start in range(0, 61, 7):
        y, state = encoder.step(features[:, start : start + 7], state, context, final=start + 7 >= 61)
        found.append(y)
    # Attention and normalisation are float32, which rounds differently in a chunk.
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=0.02 if hybrid_layers else 0, rtol=0)


def test_other_kinds_refuse_rows_with_several_numbers_of_settled_frames() -> None:
    encoder = tiny_model().encoder
    with pytest.raises(ValueError, match="equally many settled frames"):
        encoder.preview(torch.randn(2, 43, 16), encoder.initial_state(2), torch.tensor([4, 0]))
