"""Batches of stream states: each stream gets its own state back from any batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import Context, EncoderConfig, FrontConfig, HybridConfig
from asr.model.encoder import Encoder
from asr.model.states import Rows, Slots, State, Vectors, build, flatten, join, select

CPU = torch.device("cpu")
MELS = 12
CONTEXT = Context(360, 120)
both = pytest.mark.parametrize("rows", [Vectors(), Slots(CPU, 2)], ids=["vectors", "slots"])


@dataclass(frozen=True)
class Mixed(State):
    """Everything that a state may consist of."""

    level: Tensor
    pair: tuple[Tensor, ...]
    count: int
    inner: Mixed | None = None


def mixed(batch: int, frames: int = 3, count: int = 5) -> Mixed:
    half = torch.randn(batch, 2, frames).bfloat16()
    inner = Mixed(torch.randn(batch, 0, 4), (), 0)
    return Mixed(torch.randn(batch), (half, torch.randn(batch, frames, 4)), count, inner)


def rows_of(state: Any) -> list[list[Tensor]]:
    tensors, _ = flatten(state)
    return [[tensor[row] for tensor in tensors] for row in range(len(tensors[0]))]


def same(found: Any, expected: Any) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_a_state_is_its_layout_and_its_tensors() -> None:
    state = mixed(2)
    tensors, layout = flatten(state)
    again = build(layout, tensors)
    assert again.pair[0] is state.pair[0]
    assert (again.count, again.inner.level) == (5, state.inner.level)  # type: ignore[union-attr]
    assert flatten(mixed(7))[1] == layout
    assert flatten(mixed(2, frames=4))[1] != layout
    assert flatten(mixed(2, count=6))[1] != layout


def test_states_are_joined_and_taken_apart() -> None:
    states = [mixed(2), mixed(1), mixed(3)]
    together = join(states)
    assert flatten(together)[1] == flatten(states[0])[1]
    first = 0
    for state in states:
        count = len(state.level)
        assert same(flatten(select(together, slice(first, first + count)))[0], flatten(state)[0])
        first += count


@both
def test_rows_come_back_in_any_order_and_number(rows: Rows) -> None:
    one, two = mixed(3), mixed(2)
    kept = [*rows.keep(one), *rows.keep(two)]
    expected = rows_of(one) + rows_of(two)
    assert len({row.layout for row in kept}) == 1
    for order in ([0], [4, 0, 2], [1, 1], [4, 3, 2, 1, 0]):
        found = rows.batch([kept[i] for i in order])
        assert (found.count, found.inner.count) == (5, 0)
        assert all(same(a, expected[i]) for a, i in zip(rows_of(found), order, strict=True))
        assert all(tensor.is_contiguous() for tensor in flatten(found)[0])


@both
def test_what_is_kept_does_not_change_with_the_batch(rows: Rows) -> None:
    state = mixed(2)
    before = [[part.clone() for part in row] for row in rows_of(state)]
    kept = rows.keep(state)
    for tensor in (*flatten(state)[0], *flatten(rows.batch(kept))[0]):
        tensor.fill_(torch.nan)
    assert all(same(a, b) for a, b in zip(rows_of(rows.batch(kept)), before, strict=True))


def test_a_vector_keeps_no_batch_in_memory() -> None:
    for row in Vectors().keep(mixed(50)):
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in row.numbers)


def test_slots_are_used_again_and_never_hold_what_was_there() -> None:
    """Streams come, step and go at random; freed slots are reused, and NaN in them reaches no stream."""
    generator, slots, plain = random.Random(1), Slots(CPU, 2), Vectors()
    streams: list[tuple[Any, Any]] = []
    most = 0
    for _ in range(200):
        if generator.random() < 0.4:
            state = mixed(generator.randrange(1, 4), frames=generator.randrange(1, 5))
            streams += zip(slots.keep(state), plain.keep(state), strict=True)
        generator.shuffle(streams)
        del streams[generator.randrange(5, 9) :]
        for table in slots._tables.values():
            table[slots._free] = torch.nan
        streams = stepped(streams, slots, plain)
        assert slots._count - len(slots._free) == len(streams)
        most = max(most, len(streams))
    assert most >= 5
    assert slots._count <= 32  # freed rows are reused


def stepped(streams: list[tuple[Any, Any]], slots: Slots, plain: Vectors) -> list[tuple[Any, Any]]:
    """Add 1 to the states of all streams, in batches; both kinds of rows hold the same before."""
    groups: dict[Any, list[tuple[Any, Any]]] = {}
    for stream in streams:
        groups.setdefault(stream[0].layout, []).append(stream)
    after: list[tuple[Any, Any]] = []
    for group in groups.values():
        found, expected = (
            kind.batch(list(rows)) for kind, rows in zip((slots, plain), zip(*group, strict=True), strict=True)
        )
        assert same(flatten(found)[0], flatten(expected)[0])
        state = build(flatten(found)[1], [tensor + 1 for tensor in flatten(found)[0]])
        after += zip(slots.keep(state), plain.keep(state), strict=True)
    return after


ENCODERS = {
    "pyramid": EncoderConfig(joins=(3, 2), hidden_size=8),
    "hybrid": EncoderConfig(joins=(2,), hidden_size=8, hybrid=HybridConfig(layers=2, heads=2, past_frames=8)),
    "front": EncoderConfig(joins=(1, 2), hidden_size=8, front=FrontConfig((3, 4), (1, 3), (2, 2))),
}


@both
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_goes_on_from_rows_as_from_its_state(rows: Rows, kind: str) -> None:
    torch.manual_seed(2)
    encoder = Encoder(ENCODERS[kind], MELS, 10.0).eval()
    first, more = torch.randn(3, 100, MELS), torch.randn(3, 60, MELS)
    with torch.inference_mode():
        kept: list[Any] = []
        for row in first.split(1):
            kept += rows.keep(encoder.step(row, encoder.initial_state(1), CONTEXT)[1])
        assert len({row.layout for row in kept}) == 1
        out, state = encoder.step(more, rows.batch(kept), CONTEXT)
        for i, after in enumerate(rows.keep(state)):
            begun = encoder.step(first[i : i + 1], encoder.initial_state(1), CONTEXT)[1]
            expected, alone = encoder.step(more[i : i + 1], begun, CONTEXT)
            torch.testing.assert_close(out[i : i + 1], expected)
            for a, b in zip(flatten(rows.batch([after]))[0], flatten(alone)[0], strict=True):
                torch.testing.assert_close(a, b)
