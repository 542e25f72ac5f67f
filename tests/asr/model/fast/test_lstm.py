"""Our CPU training kernels for LSTM, LSTM cell and attention give the results of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import asr.model.fast.lstm
from asr.config import AttentionConfig
from asr.model.attention import LocationAwareAttention
from asr.model.fast.decoder_loop import LoopAttention, LoopCell
from asr.model.recurrent import run_lstm
from asr.training.precision import has_bfloat16

beside_pytorchs = pytest.mark.skipif(
    not has_bfloat16("cpu"), reason="on this processor PyTorch has no LSTM in bfloat16 to compare with"
)


@pytest.fixture
def _own_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr.model.fast.lstm, "_LEAST_WEIGHTS", 1)


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.float() for x in torch.autograd.grad(loss, list(inputs))]


def difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference relative to the expected tensor's."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.usefixtures("_own_at_any_size")
@pytest.mark.parametrize(("rows", "steps"), [(3, 40), (1, 1)])
def test_lstm_in_bfloat16_is_pytorchs_to_rounding(rows: int, steps: int) -> None:
    torch.manual_seed(1)
    lstm = nn.LSTM(24, 16, batch_first=True)
    x = torch.randn(rows, steps, 24, requires_grad=True)
    weights = torch.randn(rows, steps, 16)
    expected = lstm(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = run_lstm(lstm, x)
    assert found.dtype == torch.bfloat16
    assert difference(found, expected) < 0.01
    inputs = [x, *lstm.parameters()]
    pairs = zip(gradients((found * weights).sum(), inputs), gradients((expected * weights).sum(), inputs), strict=True)
    for own, theirs in pairs:
        assert own.shape == theirs.shape
        assert difference(own, theirs) < 0.03 if theirs.any() else not own.any()


@pytest.mark.usefixtures("_own_at_any_size")
def test_lstm_gradients_are_exact_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 instead of bfloat16 and float32, only an error in the formulas could make a difference."""
    torch.manual_seed(1)
    lstm = nn.LSTM(6, 5, batch_first=True).double()
    x = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    for smaller in ("bfloat16", "float"):
        monkeypatch.setattr(torch.Tensor, smaller, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_lstm(lstm, x)
    expected, inputs = lstm(x)[0], [x, *lstm.parameters()]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for own, theirs in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(own, theirs)


@beside_pytorchs
@pytest.mark.usefixtures("_own_at_any_size")
def test_lstm_with_a_long_memory_rounds_no_more_than_pytorchs() -> None:
    """With a bfloat16 state between steps, the error of the gradients was 1.5 times PyTorch's."""
    torch.manual_seed(1)
    lstm = nn.LSTM(32, 32, batch_first=True)
    with torch.no_grad():
        lstm.bias_ih_l0[32:64] += 2  # forget gates near 1
    x, weights = torch.randn(4, 300, 32, requires_grad=True), torch.randn(4, 300, 32)
    inputs = [x, *lstm.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = run_lstm(lstm, x), lstm(x)[0]
    own, theirs, exact = (gradients((y * weights).sum(), inputs) for y in (*outputs, lstm(x)[0]))
    own_error, their_error = (sum(map(difference, found, exact)) for found in (own, theirs))
    assert own_error <= 1.2 * their_error


@pytest.mark.usefixtures("_own_at_any_size")
def test_a_backward_inside_autocast_gives_the_same_gradients() -> None:
    """The attention's backward pass failed inside autocast: "mat1 and mat2 must have the same dtype"."""
    torch.manual_seed(1)
    lstm, cell = nn.LSTM(6, 5, batch_first=True), nn.LSTMCell(6, 5)
    attention = LocationAwareAttention(5, 5, AttentionConfig(size=6, location_channels=3, location_width=5))
    x, inputs = torch.randn(2, 9, 6), [*lstm.parameters(), *cell.parameters(), *attention.parameters()]

    def loss() -> Tensor:
        memory = attention.prepare(run_lstm(lstm, x), torch.tensor([9, 4]))
        h = LoopCell(cell)(x[:, 0], (torch.zeros(2, 5), torch.zeros(2, 5)))[0]
        return LoopAttention(attention, memory)(h, memory, attention.initial_state(memory))[0].square().sum()

    with torch.autocast("cpu", torch.bfloat16):
        inside, outside = gradients(loss(), inputs), loss()
    torch.testing.assert_close(inside, gradients(outside, inputs))


def test_float32_stays_with_pytorch() -> None:
    """Float32 models use PyTorch's LSTM: ours would lose precision unasked."""
    lstm, large = nn.LSTM(4, 3, batch_first=True), nn.LSTM(2048, 512, batch_first=True)
    x, wide = torch.randn(2, 5, 4), torch.randn(1, 2, 2048)
    assert torch.equal(run_lstm(lstm, x), lstm(x)[0])
    assert torch.equal(run_lstm(large, wide), large(wide)[0])


@beside_pytorchs
def test_small_sizes_and_inference_stay_with_pytorch() -> None:
    """Small sizes and inference use PyTorch's LSTM, since ours is slower there."""
    lstm, large = nn.LSTM(4, 3, batch_first=True), nn.LSTM(2048, 512, batch_first=True)
    x, wide = torch.randn(2, 5, 4), torch.randn(1, 2, 2048)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run_lstm(lstm, x), lstm(x)[0])
        own = run_lstm(large, wide)
        assert not torch.equal(own, large(wide)[0])
        with torch.no_grad():
            assert torch.equal(run_lstm(large, wide), large(wide)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_deferred_cell_is_the_cell(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    cell, x = nn.LSTMCell(6, 5), torch.randn(4, 3, 6, requires_grad=True)

    def loop(cell: nn.LSTMCell | LoopCell) -> Tensor:
        state, outputs = (torch.zeros(3, 5), torch.zeros(3, 5)), []
        for frame in x:
            state = cell(frame, state)
            outputs.append(state[0] + 2 * state[1])
        return torch.stack(outputs)

    expected = loop(cell)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = loop(LoopCell(cell))
    limit, inputs, weights = 1e-5 if dtype == torch.float32 else 0.03, [x, *cell.parameters()], torch.randn(4, 3, 5)
    assert difference(found, expected) < limit
    pairs = (gradients((y * weights).sum(), inputs) for y in (found, expected))
    assert all(difference(own, theirs) < limit for own, theirs in zip(*pairs, strict=True))


@pytest.mark.parametrize(("width", "window_frames"), [(5, None), (11, None), (1, None), (5, 2)])
def test_deferred_attention_is_the_attention(width: int, window_frames: int | None) -> None:
    """Deferred attention equals ordinary attention at every step, for rows of different lengths, one empty."""
    torch.manual_seed(1)
    config = AttentionConfig(size=6, location_channels=3, location_width=width, window_frames=window_frames)
    attention = LocationAwareAttention(5, 8, config)
    encoder_out = torch.randn(3, 9, 8)
    lengths = torch.tensor([9, 4, 0])
    encoder_out = (encoder_out * (torch.arange(9) < lengths[:, None])[..., None]).requires_grad_()
    queries = torch.randn(4, 3, 5, requires_grad=True)
    weights = torch.randn(4, 3, 8), torch.randn(4, 3, 1, 9)

    def loop(deferred: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        memory = attention.prepare(encoder_out, lengths)
        look = LoopAttention(attention, memory) if deferred else attention
        state, looks = attention.initial_state(memory), []
        for query in queries:
            context, state = look(query, memory, state)
            looks.append((context, state.alignment))
        contexts, alignments = (torch.stack(parts) for parts in zip(*looks, strict=True))
        loss = (contexts * weights[0]).sum() + (alignments * weights[1]).sum()
        return contexts, alignments, gradients(loss, [queries, encoder_out, *attention.parameters()])

    found, expected = loop(deferred=True), loop(deferred=False)
    torch.testing.assert_close(found[:2], expected[:2])
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-5)


def test_deferred_attention_under_autocast_stays_in_float32() -> None:
    torch.manual_seed(1)
    attention = LocationAwareAttention(5, 8, AttentionConfig(size=6, location_channels=3, location_width=5))
    encoder_out, query = torch.randn(2, 9, 8), torch.randn(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        memory = attention.prepare(encoder_out, torch.tensor([9, 4]))
        look = LoopAttention(attention, memory)
        context, state = look(query, memory, attention.initial_state(memory))
    assert context.dtype == state.alignment.dtype == torch.float32
    torch.testing.assert_close(context[:, None], state.alignment.detach() @ encoder_out)
