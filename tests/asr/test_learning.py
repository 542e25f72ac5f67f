"""End to end, small: a model with any attention scorer memorises a handful of utterances.

Each letter is a tone, so words are short melodies. A model that does not reach zero errors has a fault in its
features, encoder, attention, decoder, loss or search.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from asr.config import (
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    HybridConfig,
    ModelConfig,
    SearchConfig,
)
from asr.model.las import Model
from asr.search import search
from asr.text.metrics import score
from asr.text.tokenizer import Tokenizer
from asr.training.data import Batch, Item, collate
from asr.training.module import joint_loss

TEXTS = ("go on", "stop", "no", "go to no", "on top", "spot on", "not so", "too soon")
LETTERS = " gonstp"


def melody(text: str) -> torch.Tensor:
    """100 ms of each letter's tone, with 20 ms of silence between letters."""
    time = torch.arange(1600) / 16_000
    shape = torch.hann_window(1600).sqrt()
    tones = [torch.sin(2 * torch.pi * 300 * 1.45 ** LETTERS.index(letter) * time) * shape for letter in text]
    return 0.3 * torch.cat([torch.nn.functional.pad(tone, (0, 320)) for tone in tones])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 20, "char")


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> Batch:
    return collate([Item(melody(text), torch.tensor(tokenizer.encode(text))) for text in TEXTS])


def model_config(tokenizer: Tokenizer, attention: AttentionConfig, hybrid_layers: int = 0) -> ModelConfig:
    return ModelConfig(
        vocab_size=len(tokenizer),
        features=FeatureConfig(n_mels=32),
        encoder=EncoderConfig(
            joins=(2, 2),
            hidden_size=32,
            dropout=0.0,
            hybrid=HybridConfig(layers=hybrid_layers, heads=2, past_frames=32),
        ),
        attention=attention,
        decoder=DecoderConfig(hidden_size=64, embedding_size=16, dropout=0.0),
    )


def learn(model: Model, batch: Batch, most_steps: int) -> float:
    """Train with Adam until the decoder is certain of every token; returns the final loss."""
    waveform = batch.waveform + 1e-4 * torch.randn(batch.waveform.shape)
    frames, lengths = model.features(waveform, batch.samples)
    real = torch.arange(frames.shape[1]) < lengths[:, None]
    model.features.mean.copy_(frames[real].mean(0))
    model.features.std.copy_(frames[real].std(0))
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    loss = torch.tensor(torch.inf)
    for _ in range(most_steps):
        losses = joint_loss(model, model.encode(batch.waveform, batch.samples), batch, 0.0, 0.0)
        loss = 0.7 * losses.attention + 0.3 * losses.ctc
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if loss < 0.03:
            break
    model.eval()
    return float(loss.detach())


def errors(model: Model, batch: Batch, tokenizer: Tokenizer, config: SearchConfig) -> int:
    with torch.inference_mode():
        found = search(model, model.encode(batch.waveform, batch.samples), config)
    pairs = zip(TEXTS, found, strict=True)
    return sum(score("", "", text, tokenizer.decode(nbest[0].tokens), 0.0).words.errors for text, nbest in pairs)


def learns_by_heart(attention: AttentionConfig, batch: Batch, tokenizer: Tokenizer, hybrid_layers: int = 0) -> None:
    model = Model(model_config(tokenizer, attention, hybrid_layers))
    untrained = errors(model.eval(), batch, tokenizer, SearchConfig(beam_size=1, max_tokens_per_second=15))
    assert untrained > 0
    loss = learn(model, batch, 400)
    assert loss < 0.1
    for beam_size, ctc_weight in ((1, 0.0), (4, 0.0), (4, 0.3), (4, 1.0)):
        config = SearchConfig(beam_size=beam_size, ctc_weight=ctc_weight, max_tokens_per_second=15)
        assert errors(model, batch, tokenizer, config) == 0, config


LOCATION = AttentionConfig("location", size=32, location_channels=4, location_width=15)


def test_the_default_scorer_learns_a_tiny_set_to_no_error(batch: Batch, tokenizer: Tokenizer) -> None:
    """With location-aware attention, greedy, beam, joint and CTC-only search all give every word."""
    learns_by_heart(LOCATION, batch, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "attention",
    [
        AttentionConfig("additive", size=32),
        AttentionConfig("dot", size=32),
        AttentionConfig("scaled_dot", size=32),
        AttentionConfig("multi_head", size=32, heads=4),
        dataclasses.replace(LOCATION, window_frames=20),
    ],
    ids=["additive", "dot", "scaled_dot", "multi_head", "window"],
)
def test_every_scorer_learns_a_tiny_set_to_no_error(
    attention: AttentionConfig, batch: Batch, tokenizer: Tokenizer
) -> None:
    """Every attention scorer can be trained to zero errors."""
    learns_by_heart(attention, batch, tokenizer)


@pytest.mark.slow
def test_the_hybrid_encoder_learns_a_tiny_set_to_no_error(batch: Batch, tokenizer: Tokenizer) -> None:
    """With a recurrent + self-attention block above the pyramid, training also reaches zero errors."""
    learns_by_heart(LOCATION, batch, tokenizer, hybrid_layers=1)
