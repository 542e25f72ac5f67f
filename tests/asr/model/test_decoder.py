"""The decoder: steps equal `forward`, and its state is a value that can be reordered."""

from __future__ import annotations

import itertools
import typing

import pytest
import torch
from torch import Tensor

from asr.config import AttentionKind
from asr.model.decoder import Decoder, DecoderState
from tests.support.model_parts import LENGTHS, SCORERS, VOCAB, build_decoder, encoded

KINDS = [*((scorer, "ours") for scorer in SCORERS), ("location", "theirs"), ("additive", "theirs")]
every_kind = pytest.mark.parametrize(("scorer", "kind"), KINDS)


@every_kind
@pytest.mark.parametrize("layers", [1, 2])
def test_steps_equal_forward(scorer: AttentionKind, kind: str, layers: int) -> None:
    """Steps along the reference give the logits of teacher forcing."""
    decoder, (out, lengths) = build_decoder(scorer, layers, kind=kind), encoded()
    tokens = torch.randint(0, VOCAB, (3, 5))
    expected, alignments = decoder(tokens, out, lengths)
    assert expected.shape == (3, 5, VOCAB)
    memory = decoder.prepare(out, lengths)
    state = decoder.initial_state(memory)
    for u in range(5):
        readout, state = decoder.step(tokens[:, u], state, memory)
        torch.testing.assert_close(decoder.logits(readout), expected[:, u], rtol=0, atol=1e-5)
        torch.testing.assert_close(state.alignment, alignments[:, u], rtol=0, atol=1e-5)


@every_kind
def test_a_row_is_the_same_alone_and_in_a_padded_batch(scorer: AttentionKind, kind: str) -> None:
    """Promise 2: neither other utterances nor padding reach a row's logits."""
    decoder, (out, lengths) = build_decoder(scorer, kind=kind), encoded()
    tokens = torch.randint(0, VOCAB, (3, 5))
    together, _ = decoder(tokens, out, lengths)
    for row, length in enumerate(LENGTHS):
        alone, _ = decoder(tokens[row : row + 1], out[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


def advance(
    decoder: Decoder, state: DecoderState, memory: typing.Any, tokens: list[int]
) -> tuple[Tensor, DecoderState]:
    readout, state = decoder.step(torch.tensor(tokens), state, memory)
    return decoder.logits(readout), state


def test_the_first_step_may_come_from_even_weights() -> None:
    """Even initial weights work for any number of hypotheses, with none on padding."""
    decoder, (out, lengths) = build_decoder(kind="theirs"), encoded()
    alignment = decoder.initial_state(decoder.prepare(out, lengths), beams=2).alignment
    assert alignment.shape == (6, 1, 9)
    for row, weights in enumerate(alignment[:, 0]):
        length = LENGTHS[row // 2]
        torch.testing.assert_close(weights[:length], torch.full((length,), 1 / length))
        assert not weights[length:].any()


def test_select_reorders_the_whole_state() -> None:
    """A selected row continues exactly like the row that it was taken from."""
    decoder, (out, _) = build_decoder(layers=2), encoded()
    memory = decoder.prepare(out[:1].expand(3, -1, -1), torch.tensor([9, 9, 9]))
    _, state = advance(decoder, decoder.initial_state(memory), memory, [2, 4, 5])
    expected, after = advance(decoder, state, memory, [6, 6, 6])
    assert not torch.allclose(expected[0], expected[1], atol=1e-4)
    order = torch.tensor([2, 0, 0, 1])
    chosen = state.select(order)
    more = decoder.prepare(out[:1].expand(4, -1, -1), torch.tensor([9, 9, 9, 9]))
    found, selected = advance(decoder, chosen, more, [6, 6, 6, 6])
    torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-5)
    for name, tensor in zip(DecoderState._fields, selected, strict=True):
        torch.testing.assert_close(tensor, getattr(after, name)[order], rtol=0, atol=1e-5)


def test_the_state_is_a_value() -> None:
    """A step does not change the state that it was given, and a second step from it gives the same."""
    decoder, (out, lengths) = build_decoder(layers=2), encoded()
    memory = decoder.prepare(out, lengths)
    _, state = advance(decoder, decoder.initial_state(memory), memory, [2, 3, 4])
    kept = [x.clone() for x in state]
    once, _ = advance(decoder, state, memory, [5, 5, 5])
    twice, _ = advance(decoder, state, memory, [5, 5, 5])
    assert torch.equal(once, twice)
    assert all(map(torch.equal, state, kept))


def test_what_was_said_matters_for_what_comes() -> None:
    """The last token, earlier tokens and the last context all affect the next logits."""
    decoder, (out, lengths) = build_decoder(), encoded()
    logits = [
        decoder(torch.tensor([said]), out[:1], lengths[:1])[0][0, -1] for said in ([2, 3, 4], [2, 3, 5], [2, 6, 4])
    ]
    for a, b in itertools.combinations(logits, 2):
        assert not torch.allclose(a, b, atol=1e-4)
    memory = decoder.prepare(out, lengths)
    _, state = advance(decoder, decoder.initial_state(memory), memory, [2, 2, 2])
    fed, _ = advance(decoder, state, memory, [3, 3, 3])
    starved, _ = advance(decoder, state._replace(context=torch.zeros_like(state.context)), memory, [3, 3, 3])
    assert not torch.allclose(fed, starved, atol=1e-4)


def test_logits_never_depend_on_later_tokens() -> None:
    decoder, (out, lengths) = build_decoder(), encoded()
    tokens = torch.randint(0, VOCAB, (3, 5))
    before, _ = decoder(tokens, out, lengths)
    tokens[:, 3:] = (tokens[:, 3:] + 1) % VOCAB
    after, _ = decoder(tokens, out, lengths)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-4)


def test_scheduled_sampling_feeds_the_models_own_words() -> None:
    """At rate 0 the decoder gets the given history, at rate 1 only its first token."""
    decoder, (out, lengths) = build_decoder(), encoded()
    one, other = torch.full((3, 6), 4), torch.full((3, 6), 5)
    one[:, 0] = other[:, 0] = 2
    given = [decoder(tokens, out, lengths)[0] for tokens in (one, other)]
    assert not torch.allclose(*given, atol=1e-4)
    drawn = []
    for tokens in (one, other):
        torch.manual_seed(0)
        drawn.append(decoder(tokens, out, lengths, sampling_rate=1.0)[0])
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-5), (True, 4e-2)])
@pytest.mark.parametrize(("layers", "kind"), [(1, "ours"), (2, "ours"), (2, "theirs")])
def test_gradients_put_off_to_the_end_are_those_of_the_steps(
    layers: int, kind: str, autocast: bool, tolerance: float
) -> None:
    """Training computes the gradients of the cells' weights in one product at the end; it equals autograd's sum."""
    decoder, (out, lengths) = build_decoder(layers=layers, kind=kind), encoded()
    tokens, weights = torch.randint(0, VOCAB, (3, 5)), torch.randn(3, 5, VOCAB)
    found = []
    for at_once in (True, False):
        decoder.zero_grad()
        given = out.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if at_once:
                logits, _ = decoder(tokens, given, lengths)
            else:
                memory, said = decoder.prepare(given, lengths), []
                state = decoder.initial_state(memory)
                for token in tokens.T:
                    readout, state = decoder.step(token, state, memory)
                    said.append(decoder.logits(readout))
                logits = torch.stack(said, dim=1)
        (logits.float() * weights).sum().backward()
        found.append([given.grad, *(weight.grad for weight in decoder.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


@every_kind
def test_gradient_reaches_every_parameter(scorer: AttentionKind, kind: str) -> None:
    decoder, (out, lengths) = build_decoder(scorer, layers=2, kind=kind), encoded()
    logits, _ = decoder.train()(torch.arange(VOCAB).expand(3, -1), out.requires_grad_(), lengths)
    (logits * torch.randn_like(logits)).sum().backward()
    idle = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    assert out.grad is not None
    assert out.grad[0].any()
