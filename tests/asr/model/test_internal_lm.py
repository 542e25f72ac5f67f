"""The decoder's internal language model, and its subtraction in fusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asr.config import AttentionKind
from asr.model.internal_lm import DensityRatio, InternalLm
from asr.model.lm import LmState
from asr.text.tokenizer import EOS, SOS
from tests.support.model_parts import SCORERS, VALUE, VOCAB, build_decoder, encoded
from tests.support.tiny_model import opinionated_lm


@pytest.mark.parametrize("scorer", SCORERS)
def test_training_remembers_what_there_is_to_be_seen(scorer: AttentionKind) -> None:
    """The mean context is that of the first batch, without padding; later batches move it a little, inference never."""
    decoder, (out, lengths) = build_decoder(scorer), encoded()
    tokens = torch.randint(0, VOCAB, (3, 2))
    decoder(tokens, out, lengths)
    assert not decoder.mean_context.any()
    decoder.train()
    decoder(tokens, out, lengths)
    first = decoder.mean_context.clone()
    if scorer != "multi_head":  # multi-head: each head has values of its own
        torch.testing.assert_close(first, (out.sum(1) / lengths[:, None]).mean(0))
    decoder(tokens, out + 100.0, lengths)
    moved = (decoder.mean_context - first).norm()
    assert 0 < moved < 0.05 * (decoder.attention.mean_context(decoder.prepare(out + 100.0, lengths)) - first).norm()


def test_a_batch_that_is_not_finite_is_not_remembered() -> None:
    """The step of a non-finite batch is skipped, and must not spoil the mean context either."""
    decoder, (out, lengths) = build_decoder().train(), encoded()
    tokens = torch.randint(0, VOCAB, (3, 2))
    decoder(tokens, out, lengths)
    before = decoder.mean_context.clone()
    for bad in (torch.nan, torch.inf):
        decoder(tokens, out * bad, lengths)
        torch.testing.assert_close(decoder.mean_context, before)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_it_says_what_the_decoder_says_where_all_audio_is_the_mean(kind: str) -> None:
    decoder = build_decoder(layers=2, kind=kind)
    torch.nn.init.normal_(decoder.mean_context)
    one_frame = decoder.prepare(torch.randn(2, 1, VALUE), torch.tensor([1, 1]))
    one_frame = replace(one_frame, values=decoder.mean_context.expand(2, 1, -1))
    expected = decoder.initial_state(one_frame)._replace(context=decoder.mean_context.expand(2, -1))
    internal = InternalLm(decoder)
    state = internal.initial_state(2)
    for tokens in (torch.tensor([SOS, SOS]), torch.tensor([4, 5]), torch.tensor([5, 6])):
        readout, expected = decoder.step(tokens, expected, one_frame)
        found, state = internal.step(tokens, state)
        torch.testing.assert_close(found, decoder.logits(readout).log_softmax(-1))


@torch.inference_mode()
def test_the_internal_model_is_taken_off_but_for_the_end() -> None:
    """The internal model is subtracted for all tokens except eos, however rows are reordered, stacked and split."""
    decoder, lm, share = build_decoder(layers=2), opinionated_lm(VOCAB), 0.6
    torch.nn.init.normal_(decoder.mean_context)
    internal = InternalLm(decoder)
    fused = DensityRatio(lm, internal, share)
    state, known, own = (model.initial_state(3) for model in (fused, lm, internal))
    for step, tokens in enumerate(torch.tensor([[SOS] * 3, [4, 5, 6], [5, 5, 4]])):
        scores, state = fused.step(tokens, state)
        expected, known = lm.step(tokens, known)
        taken, own = internal.step(tokens, own)
        taken[:, EOS] = 0.0
        torch.testing.assert_close(scores, expected - share * taken)
        rows = torch.tensor([2, 0, 0]) if step else torch.tensor([1, 2, 0])
        state, known, own = LmState.stack(state.select(rows).split()), known.select(rows), own.select(rows)
