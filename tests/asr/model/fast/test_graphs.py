"""CUDA graphs. On a CPU, each graph is replaced by a function that writes into the same tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import EncoderConfig
from asr.model.encoder import Encoder, EncoderState
from asr.model.fast.graphs import Graphs
from asr.model.states import build, flatten
from tests.support.fake_cuda_graph import Capturing

MELS = 12


def encode(encoder: Encoder) -> Callable[[Tensor, EncoderState, int], tuple[Tensor, EncoderState]]:
    return lambda features, state, settled: encoder.preview(features, state, settled)


def sequences(encoder: Encoder, rows: int) -> tuple[Tensor, EncoderState]:
    """Features of `rows` streams, and an encoder state after earlier features."""
    weight = next(encoder.parameters())
    first, features = (torch.randn(rows, frames, MELS).to(weight) for frames in (24, 36))
    return features, encoder.preview(first, encoder.initial_state(rows), 2)[1]


def built() -> Encoder:
    torch.manual_seed(1)
    return Encoder(EncoderConfig(joins=(3, 2), hidden_size=16), MELS, 10.0).eval()


def close(found: Any, expected: Any) -> None:
    (tensors, layout), (others, other_layout) = flatten(found), flatten(expected)
    assert layout == other_layout
    for a, b in zip(tensors, others, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_batches_of_any_size_are_what_they_are_without_graphs() -> None:
    capturing, encoder = Capturing(), built()
    graphs = Graphs(encode(encoder), capturing)
    for rows in (3, 3, 4, 2, 1, 2, 8, 5, 1, 4):
        features, state = sequences(encoder, rows)
        close(graphs(features, state, 3), encoder.preview(features, state, 3))
    # 4 rows at the second batch, 2 at the sixth, 8 at the eighth, 1 at the ninth.
    assert capturing.captured == 4
    assert capturing.replayed == 6


@torch.inference_mode()
def test_rows_that_are_not_in_the_batch_are_not_looked_at() -> None:
    encoder = built()
    graphs = Graphs(encode(encoder), Capturing())
    features, state = sequences(encoder, 4)
    spoilt = features.clone()
    spoilt[2:] = torch.nan
    for _ in range(2):
        graphs(spoilt, state, 3)
    tensors, layout = flatten(state)
    few = build(layout, [tensor[:3] for tensor in tensors])
    found = graphs(features[:3], few, 3)
    close(found, encoder.preview(features[:3], few, 3))
    assert all(tensor.isfinite().all() for tensor in flatten(found)[0])


@torch.inference_mode()
def test_a_result_stays_as_it_is_when_the_graph_runs_again() -> None:
    encoder = built()
    graphs = Graphs(encode(encoder), Capturing())
    (features, state), (others, other_state) = sequences(encoder, 2), sequences(encoder, 2)
    graphs(features, state, 0)
    found, state_before = graphs(features, state, 0), [tensor.clone() for tensor in flatten(state)[0]]
    before = [tensor.clone() for tensor in flatten(found)[0]]
    graphs(others, other_state, 0)
    assert all(torch.equal(a, b) for a, b in zip(flatten(found)[0], before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(flatten(state)[0], state_before, strict=True))


def test_shapes_that_do_not_come_again_are_not_captured() -> None:
    capturing = Capturing()
    graphs = Graphs(lambda x: x + 1, capturing)
    for frames in range(1, 2_000):
        assert graphs(torch.zeros(1, frames)).sum() == frames
    assert capturing.captured == 0
    assert len(graphs._seen) < 1_000
    for _ in range(3):
        graphs(torch.zeros(5_000, 1))  # more rows than a graph pays for
    assert capturing.captured == 0


def test_what_cannot_be_captured_is_called_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def failing(function: Callable[[], Any]) -> Any:
        tried.append(1)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with …")

    graphs = Graphs(lambda x: 2 * x, failing)
    with caplog.at_level(logging.WARNING):
        for rows in (2, 2, 2, 9, 9):
            assert graphs(torch.ones(rows, 3)).tolist() == [[2.0] * 3] * rows
    assert len(tried) == 1
    (record,) = caplog.records
    assert record.getMessage().splitlines() == [
        "no CUDA graph could be captured (CUDA error: operation not permitted when stream is capturing): "
        "going on without"
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_graph_of_the_encoder_gives_what_the_encoder_gives(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = built().to("cuda", dtype)
    graphs = Graphs(encode(encoder))
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for rows in (3, 3, 4, 1, 1, 2):
        features, state = sequences(encoder, rows)
        found, expected = graphs(features, state, 3), encoder.preview(features, state, 3)
        for a, b in zip(flatten(found)[0], flatten(expected)[0], strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
    assert len(graphs._graphs) == 2
    assert not caplog.records


@pytest.mark.gpu
@torch.inference_mode()
def test_what_waits_for_the_gpu_is_called_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs(lambda x: x * float(x.sum()))
    for _ in range(3):
        assert graphs(torch.ones(2, 2, device="cuda")).tolist() == [[4.0, 4.0]] * 2
    assert len(caplog.records) == 1
