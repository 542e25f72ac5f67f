"""Attention: promises that every scorer keeps."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor

from asr.config import AttentionConfig, AttentionKind
from asr.model.attention import Attention, AttentionState, Memory, build_attention

SCORERS = typing.get_args(AttentionKind)
QUERY, VALUE = 5, 6
LENGTHS = [9, 4, 1]

every_scorer = pytest.mark.parametrize("scorer", SCORERS)


def config_of(scorer: AttentionKind, window_frames: int | None = None) -> AttentionConfig:
    heads = 4 if scorer == "multi_head" else 1
    return AttentionConfig(
        scorer, size=8, heads=heads, location_channels=3, location_width=5, window_frames=window_frames
    )


def build(scorer: AttentionKind, window_frames: int | None = None) -> Attention:
    """Attention with weights large enough to prefer some frames."""
    torch.manual_seed(3)
    attention = build_attention(QUERY, VALUE, config_of(scorer, window_frames))
    with torch.no_grad():
        for weight in attention.parameters():
            weight.mul_(3)
    return attention.eval()


def encoded(lengths: list[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Random encoder output, zero beyond its lengths like the encoder's."""
    out = torch.randn(len(lengths), max(lengths), VALUE, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor(lengths)
    return out * (torch.arange(max(lengths)) < counts[:, None])[..., None], counts


def queries(rows: int, steps: int) -> Tensor:
    return torch.randn(steps, rows, QUERY, generator=torch.Generator().manual_seed(1))


def look(attention: Attention, memory: Memory, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Contexts `(U, B, D)` and alignments `(U, B, heads, T)` of one query after another."""
    state, contexts, alignments = attention.initial_state(memory), [], []
    with torch.inference_mode():
        for query in asked:
            context, state = attention(query, memory, state)
            contexts.append(context)
            alignments.append(state.alignment)
    return torch.stack(contexts), torch.stack(alignments)


@every_scorer
@pytest.mark.parametrize("window", [None, 2], ids=["everywhere", "window"])
def test_weights_sum_to_one_and_nothing_falls_on_padding(scorer: AttentionKind, window: int | None) -> None:
    """The weights of each head sum to one, with none on padding."""
    attention = build(scorer, window)
    _, alignments = look(attention, attention.prepare(*encoded()), queries(3, 6))
    assert alignments.shape == (6, 3, attention.heads, 9)
    assert (alignments >= 0).all()
    torch.testing.assert_close(alignments.sum(-1), torch.ones(6, 3, attention.heads))
    for row, length in enumerate(LENGTHS):
        assert not alignments[:, row, :, length:].any()


@every_scorer
@pytest.mark.parametrize("window", [None, 2], ids=["everywhere", "window"])
def test_a_row_is_the_same_alone_and_in_a_padded_batch(scorer: AttentionKind, window: int | None) -> None:
    """Promise 2, at every token."""
    attention = build(scorer, window)
    (out, lengths), asked = encoded(), queries(3, 6)
    contexts, alignments = look(attention, attention.prepare(out, lengths), asked)
    for row, length in enumerate(LENGTHS):
        memory = attention.prepare(out[row : row + 1, :length], lengths[row : row + 1])
        context, alignment = look(attention, memory, asked[:, row : row + 1])
        torch.testing.assert_close(contexts[:, row], context[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(alignments[:, row, :, :length], alignment[:, 0], rtol=0, atol=1e-5)


@every_scorer
def test_the_state_is_a_value(scorer: AttentionKind) -> None:
    """A query does not change the state that it was given, so a search may return to that state."""
    attention = build(scorer)
    memory, (first, second) = attention.prepare(*encoded()), queries(3, 2)
    _, state = attention(first, memory, attention.initial_state(memory))
    kept = state.alignment.clone()
    once, after_once = attention(second, memory, state)
    twice, after_twice = attention(second, memory, state)
    assert torch.equal(state.alignment, kept)
    assert torch.equal(once, twice)
    assert torch.equal(after_once.alignment, after_twice.alignment)


@every_scorer
def test_the_query_decides(scorer: AttentionKind) -> None:
    attention = build(scorer)
    memory, (first, second) = attention.prepare(*encoded()), queries(3, 2)
    state = attention.initial_state(memory)
    assert not torch.allclose(attention(first, memory, state)[0][0], attention(second, memory, state)[0][0], atol=1e-3)


@every_scorer
def test_a_single_frame_gets_all_the_weight(scorer: AttentionKind) -> None:
    attention = build(scorer)
    out, lengths = encoded([1])
    _, alignments = look(attention, attention.prepare(out, lengths), queries(1, 3))
    torch.testing.assert_close(alignments, torch.ones_like(alignments))


@every_scorer
def test_an_utterance_without_frames_gives_numbers(scorer: AttentionKind) -> None:
    """A row that is all padding does not spread NaN over its batch."""
    attention = build(scorer)
    contexts, alignments = look(attention, attention.prepare(*encoded([5, 0])), queries(2, 3))
    assert contexts.isfinite().all()
    assert alignments.isfinite().all()


@every_scorer
def test_the_window_limits_how_far_attention_moves(scorer: AttentionKind) -> None:
    """Attention stays within `window_frames` of the last peak or, before the first token, of the start."""
    attention, width = build(scorer, window_frames=2), 2
    memory = attention.prepare(*encoded([30]))
    _, alignments = look(attention, memory, 4 * queries(1, 12))
    _, free = look(build(scorer), memory, 4 * queries(1, 12))
    peak, frames = 0, torch.arange(30)
    for alignment in alignments[:, 0]:
        assert not alignment[:, (frames - peak).abs() > width].any()
        peak = int(alignment.mean(0).argmax())
    assert free[0, 0, :, width + 1 :].any()  # without a window, attention reaches further


@pytest.mark.parametrize("scorer", ["location", "additive", "dot", "scaled_dot", "multi_head"])
def test_only_the_location_aware_scorer_knows_where_it_was(scorer: AttentionKind) -> None:
    """The previous alignment changes the location-aware scorer's result and no other scorer's."""
    attention = build(scorer)
    memory, query = attention.prepare(*encoded([9])), queries(1, 1)[0]
    found = []
    for frame in (1, 6):
        alignment = torch.zeros(1, attention.heads, 9)
        alignment[..., frame] = 1.0
        found.append(attention(query, memory, AttentionState(alignment))[1].alignment)
    assert torch.allclose(*found, atol=1e-6) == (scorer != "location")


def test_location_filters_reach_half_their_width() -> None:
    """A change of the previous alignment leaves scores beyond half the filter width unchanged."""
    attention = build("location")
    memory = attention.prepare(*encoded([9]))
    query = attention.to_query(queries(1, 1)[0])
    alignment = torch.zeros(1, 1, 9)
    nothing = attention._scores(query, memory, alignment)
    alignment[..., 4] = 1.0
    changed = (attention._scores(query, memory, alignment) - nothing)[0, 0].abs() > 1e-6
    assert changed.tolist() == [2 <= frame <= 6 for frame in range(9)]


def test_scaled_dot_is_dot_divided_by_the_root_of_the_size() -> None:
    """With the same weights, scaled dot-product scores are dot-product scores over sqrt(size)."""
    dot, scaled = build("dot"), build("scaled_dot")
    scaled.load_state_dict(dot.state_dict())
    memory, query = dot.prepare(*encoded([9])), queries(1, 1)[0]
    _, loud = dot(query, memory, dot.initial_state(memory))
    _, soft = scaled(query, memory, scaled.initial_state(memory))
    # The logarithm of a softmax preserves differences of scores.
    loud_scores, soft_scores = loud.alignment.log(), soft.alignment.log()
    difference = (loud_scores - loud_scores[..., :1]) / math.sqrt(8)
    torch.testing.assert_close(soft_scores - soft_scores[..., :1], difference, rtol=1e-4, atol=1e-4)
    assert loud.alignment.max() > soft.alignment.max()


def test_dot_attends_where_query_and_key_agree() -> None:
    """Checked by hand: keys equal values, and the query equals one of them."""
    attention = build_attention(4, 4, AttentionConfig("dot", size=4))
    with torch.no_grad():
        attention.to_query.weight.copy_(torch.eye(4))
        attention.to_query.bias.zero_()
        attention.to_key.weight.copy_(torch.eye(4))
    out = torch.eye(4)[None]
    memory = attention.prepare(out, torch.tensor([4]))
    context, state = attention(20 * torch.eye(4)[2:3], memory, attention.initial_state(memory))
    torch.testing.assert_close(state.alignment, torch.eye(4)[2][None, None], rtol=0, atol=1e-6)
    torch.testing.assert_close(context, out[:, 2], rtol=0, atol=1e-6)


def test_one_head_is_scaled_dot_attention() -> None:
    """Multi-head attention with one head has the weights of scaled dot-product attention."""
    scaled = build("scaled_dot")
    single = build_attention(QUERY, VALUE, AttentionConfig("multi_head", size=8, heads=1))
    single.load_state_dict(scaled.state_dict(), strict=False)
    out, lengths = encoded()
    memory, other = scaled.prepare(out, lengths), single.prepare(out, lengths)
    query = queries(3, 1)[0]
    _, expected = scaled(query, memory, scaled.initial_state(memory))
    _, found = single(query, other, single.initial_state(other))
    torch.testing.assert_close(found.alignment, expected.alignment)


def test_heads_look_at_different_places() -> None:
    attention = build("multi_head")
    _, alignments = look(attention, attention.prepare(*encoded([9])), queries(1, 1))
    heads = alignments[0, 0]
    assert heads.shape[0] == 4
    assert not torch.allclose(heads, heads[:1].expand_as(heads), atol=1e-2)


@every_scorer
def test_beams_of_an_utterance_share_its_memory(scorer: AttentionKind) -> None:
    """Adjacent hypotheses of an utterance share its memory; each gets the result that it would get alone."""
    attention = build(scorer)
    memory = attention.prepare(*encoded())
    firsts, seconds = queries(6, 2).split(3, dim=1)
    state = attention.initial_state(memory, beams=2)
    found = []
    for first, second in zip(firsts, seconds, strict=True):
        context, state = attention(torch.stack([first, second], dim=1).flatten(0, 1), memory, state)
        found.append(context)
    for beam, own in enumerate((firsts, seconds)):
        alone = attention.initial_state(memory)
        for query, contexts in zip(own, found, strict=True):
            expected, alone = attention(query, memory, alone)
            torch.testing.assert_close(contexts[beam::2], expected, rtol=0, atol=1e-5)


@every_scorer
def test_utterances_may_have_any_number_of_hypotheses(scorer: AttentionKind) -> None:
    """With two, no and one hypothesis for three utterances, each gets the result that it would get alone."""
    attention = build(scorer, window_frames=2)
    memory, asked = attention.prepare(*encoded()), queries(3, 2)
    owners = torch.tensor([0, 0, 2])
    state, alone = AttentionState(torch.zeros(3, attention.heads, max(LENGTHS))), [attention.initial_state(memory)] * 3
    for query in asked:
        found, state = attention(query, memory.of(owners), state)
        for row, owner in enumerate(owners):
            expected, alone[row] = attention(query[row].repeat(3, 1), memory, alone[row])
            torch.testing.assert_close(found[row], expected[owner], rtol=0, atol=1e-5)
            torch.testing.assert_close(state.alignment[row], alone[row].alignment[owner], rtol=0, atol=1e-5)


@every_scorer
def test_gradient_reaches_every_parameter(scorer: AttentionKind) -> None:
    """Over two tokens, so that gradients also flow through the previous alignment."""
    attention = build_attention(QUERY, VALUE, config_of(scorer))
    memory = attention.prepare(*encoded())
    state, total = attention.initial_state(memory), torch.zeros(())
    for query in queries(3, 2):
        context, state = attention(query, memory, state)
        total = total + (context * torch.randn_like(context)).sum()
    total.backward()
    # The query's bias changes dot-product scores by its product with the keys, so it has a gradient too.
    idle = [name for name, p in attention.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
