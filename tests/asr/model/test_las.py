"""Features and encoder together: chunks of a waveform equal the whole."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.config import Context, EncoderConfig, FeatureConfig, HybridConfig, ModelConfig
from asr.model.las import Model
from tests.support.model_parts import TOLERANCE, unsettle


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=8,
        features=FeatureConfig(n_mels=20),
        encoder=EncoderConfig(joins=(3, 2), hidden_size=8, hybrid=HybridConfig(1, 2, 10)),
    )
    made = Model(config)
    unsettle(made.encoder)
    made.features.mean.fill_(-5.0)
    made.features.std.fill_(2.0)
    return made.eval()


def listen(model: Model, waveform: Tensor, context: Context, cuts: list[int]) -> Tensor:
    """Encoder output of a waveform that arrives in pieces."""
    heard, state = model.features.initial_state(1), model.encoder.initial_state(1)
    found = []
    with torch.inference_mode():
        for start, stop in itertools.pairwise([0, *cuts, waveform.shape[1]]):
            features, heard = model.features.step(waveform[:, start:stop], heard)
            out, state = model.encoder.step(features, state, context)
            found.append(out)
        out, state = model.encoder.step(features[:, :0], state, context, final=True)
    return torch.cat([*found, out], dim=1)


@pytest.mark.parametrize("context", [Context.causal(), Context(160, 40)], ids=["causal", "160 + 40 ms"])
@pytest.mark.parametrize(("samples", "chunk"), [(2_000, 1), (20_011, 160), (50_003, 5_120), (70_001, 32_000)], ids=str)
def test_chunks_of_a_waveform_equal_the_whole(model: Model, samples: int, chunk: int, context: Context) -> None:
    """Promise 1 for features and encoder: chunks of one sample, 10 ms, 320 ms and 2 s."""
    waveform = torch.randn(1, samples) * 0.1
    with torch.inference_mode():
        expected = model.encode(waveform, torch.tensor([samples]), context).encoder_out
    found = listen(model, waveform, context, list(range(chunk, samples, chunk)))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@settings(max_examples=15)
@given(samples=st.integers(0, 12_000), cuts=st.lists(st.integers(0, 12_000), max_size=10))
def test_any_cuts_of_a_waveform_equal_the_whole(model: Model, samples: int, cuts: list[int]) -> None:
    waveform = torch.randn(1, samples) * 0.1
    with torch.inference_mode():
        expected = model.encode(waveform, torch.tensor([samples]), Context(60, 60)).encoder_out
    found = listen(model, waveform, Context(60, 60), sorted(min(cut, samples) for cut in cuts))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
