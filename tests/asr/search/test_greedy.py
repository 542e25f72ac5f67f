"""Greedy search: the result does not depend on the batch."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor

from asr.config import (
    AttentionConfig,
    AttentionKind,
    Context,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    HybridConfig,
    ModelConfig,
    SearchConfig,
)
from asr.model.las import Encoded, Model
from asr.search.greedy import greedy
from asr.text.tokenizer import BLANK, EOS, SOS, UNKNOWN

# A random model repeats itself: the loop rule would cut all hypotheses short.
SEARCH = SearchConfig(max_repeats=1_000)
SECONDS = (1.0, 0.61, 0.27, 1.37, 0.02, 0.9, 0.45, 0.033, 0.75, 1.1, 0.5, 0.13, 0.82, 0.06, 0.31, 0.97)


def build(scorer: AttentionKind = "location", encoder: EncoderConfig | None = None) -> Model:
    """A model with random weights, large enough that different audio gives different tokens."""
    torch.manual_seed(11)
    config = ModelConfig(
        vocab_size=12,
        features=FeatureConfig(n_mels=16),
        encoder=encoder or EncoderConfig(joins=(2, 2), hidden_size=12),
        attention=AttentionConfig(scorer, 12, 3 if scorer == "multi_head" else 1, 3, 7),
        decoder=DecoderConfig(hidden_size=24, embedding_size=8),
    )
    model = Model(config)
    with torch.no_grad():
        for weight in (*model.encoder.parameters(), *model.decoder.parameters()):
            weight.mul_(2.0)  # at 3, its recurrence would amplify rounding to a different sentence
        model.decoder.to_logits.bias[EOS] -= 0.5
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
    return model.eval()


def recordings() -> list[Tensor]:
    """Sixteen sounds of moving pitch, from shorter than a frame to more than a second."""
    sounds = []
    for i, seconds in enumerate(SECONDS):
        time = torch.arange(int(seconds * 16_000)) / 16_000
        random = torch.Generator().manual_seed(i)
        tone = torch.sin(2 * math.pi * (200 + 150 * i) * time * (1 + 0.5 * time))
        burst = (torch.sin(2 * math.pi * 3 * time + i) > 0).float()
        sounds.append(0.3 * tone * burst + 0.02 * torch.randn(len(time), generator=random))
    return sounds


def encode(model: Model, sounds: list[Tensor], context: Context | None) -> Encoded:
    """Encode one padded batch. The padding is loud: it must have no effect."""
    samples = torch.tensor([len(sound) for sound in sounds])
    batch = 0.5 * torch.randn(len(sounds), int(samples.max()), generator=torch.Generator().manual_seed(99))
    for row, sound in zip(batch, sounds, strict=True):
        row[: len(sound)] = sound
    with torch.inference_mode():
        return model.encode(batch, samples, context)


CASES = [
    *((scorer, None, Context.full()) for scorer in typing.get_args(AttentionKind)),
    ("location", None, Context(160, 40)),
    ("location", EncoderConfig((2, 1), 12, normalisation="batch", residual=True), Context.causal()),
    ("location", EncoderConfig((2, 2), 12, hybrid=HybridConfig(1, 2, 8)), Context(160, 40)),
    ("dot", EncoderConfig((3,), 12, bidirectional=False, normalisation="none"), Context.full()),
]


@pytest.mark.parametrize(("scorer", "encoder", "context"), CASES)
def test_batch_size_never_changes_the_answer(
    scorer: AttentionKind, encoder: EncoderConfig | None, context: Context
) -> None:
    """Promise 2: tokens equal and scores within 1e-4 at batch 1, 3 and 16."""
    model, sounds = build(scorer, encoder), recordings()
    alone = [greedy(model, encode(model, [sound], context), SEARCH)[0] for sound in sounds]
    assert len({tuple(h.tokens) for h in alone}) > 4  # otherwise equal results would prove nothing
    for size in (3, 16):
        found = []
        for start in range(0, len(sounds), size):
            found += greedy(model, encode(model, sounds[start : start + size], context), SEARCH)
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.token_scores == pytest.approx(other.token_scores, abs=1e-4)


def test_the_order_of_a_batch_is_no_matter() -> None:
    model, sounds = build(), recordings()
    forth = greedy(model, encode(model, sounds, None), SEARCH)
    back = greedy(model, encode(model, sounds[::-1], None), SEARCH)
    assert [h.tokens for h in forth] == [h.tokens for h in back[::-1]]


def test_the_score_is_that_of_the_tokens() -> None:
    """Each token is the decoder's likeliest, and the score is that of teacher forcing with the same tokens."""
    model, sounds = build(), recordings()
    for sound in sounds[:4]:
        encoded = encode(model, [sound], None)
        found = greedy(model, encoded, SEARCH)[0]
        with torch.inference_mode():
            logits, _ = model.decoder(torch.tensor([[SOS, *found.tokens]]), *encoded)
        log_probs = logits[0].log_softmax(-1)
        log_probs[:, [BLANK, UNKNOWN, SOS]] = -math.inf
        best, likeliest = log_probs.max(-1)
        count = len(found.tokens)
        assert likeliest[:count].tolist() == found.tokens
        assert found.token_scores == pytest.approx(best[:count].tolist(), abs=1e-4)
        ended = float(best[count]) if int(likeliest[count]) == EOS and count < limit(model, encoded) else 0.0
        assert found.score == pytest.approx(float(best[:count].sum()) + ended, abs=1e-3)


def limit(model: Model, encoded: Encoded) -> int:
    seconds = int(encoded.encoder_out_lengths[0]) * model.config.frame_seconds
    return math.ceil(seconds * SEARCH.max_tokens_per_second) + 4


def test_no_frames_say_nothing() -> None:
    """A recording too short for a frame gives no tokens and score 0, alone or beside speech."""
    model = build()
    click, speech = torch.zeros(100), recordings()[0]
    assert greedy(model, encode(model, [click], None), SEARCH)[0].tokens == []
    beside = greedy(model, encode(model, [speech, click], None), SEARCH)
    assert beside[0].tokens
    assert (beside[1].tokens, beside[1].score) == ([], 0.0)


def test_a_decoder_that_does_not_end_is_cut() -> None:
    """If the decoder never ends, each row gets as many tokens as its own length allows, whatever its neighbours."""
    model = build()
    with torch.no_grad():
        model.decoder.to_logits.bias[EOS] = -1_000
    long, short = recordings()[3], recordings()[11]
    for seconds_limit in (2.0, 12.0):
        search = SearchConfig(max_repeats=1_000, max_tokens_per_second=seconds_limit)
        encoded = encode(model, [long, short], None)
        lengths = encoded.encoder_out_lengths * model.config.frame_seconds
        allowed = [math.ceil(float(seconds) * seconds_limit) + 4 for seconds in lengths]
        assert [len(h.tokens) for h in greedy(model, encoded, search)] == allowed


def test_special_tokens_are_never_said() -> None:
    model = build()
    with torch.no_grad():
        model.decoder.to_logits.bias[[BLANK, UNKNOWN, SOS]] = 1_000
    for hypothesis in greedy(model, encode(model, recordings()[:3], None), SEARCH):
        assert all(token > EOS for token in hypothesis.tokens)
