"""Segments encoded as on a GPU, with states in a table and steps as graphs: results are the same as without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import HybridConfig
from asr.model import fast
from asr.model.fast.graphs import Graphs
from asr.model.states import Slots
from streaming import chunk_encoder
from streaming.engine import Engine, StreamConfig
from streaming.policy import PolicyConfig
from tests.support.babbler import babbler
from tests.support.fake_cuda_graph import Capturing
from tests.support.streams import finals, listen, listen_together, rounded

KINDS = {
    "overlap": ({}, StreamConfig()),
    "chunks": ({}, StreamConfig(overlap_ms=0)),
    "hybrid": ({"hybrid": HybridConfig(layers=1, heads=2, past_frames=8)}, StreamConfig()),
    "theirs": ({"theirs": True}, StreamConfig()),
}


UNCOMMITTED = StreamConfig(policy=PolicyConfig(margin_ms=100_000))


class Spoilt(Slots):
    """Slots on the CPU, with every free row overwritten with NaN before it is reused."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), 2)

    def keep(self, state: Any) -> Any:
        for table in self._tables.values():
            table[self._free] = torch.nan
        return super().keep(state)


def streams(recordings: Sequence[Tensor]) -> list[list[Tensor]]:
    """Chunks of streams that start and end at different times and push different amounts."""
    generator = random.Random(7)
    made = []
    for i in range(4):
        audio = torch.roll(recordings[i % 4], 5_001 * i)[: 20_000 + 6_000 * i]
        made.append([torch.zeros(0)] * generator.randrange(4) + list(audio.split(generator.randrange(900, 9_000))))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_slots_and_graphs_change_no_event(recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    model, config = KINDS[kind]
    chunks = streams(recordings)
    plain = Engine(babbler(**model), config)
    alone = [listen(plain, pushed) for pushed in chunks]
    assert sum(bool(finals(events)) for events in alone) >= 3
    monkeypatch.setattr(chunk_encoder, "Vectors", Spoilt)
    engine = Engine(babbler(**model), config)
    assert isinstance(engine.encoder.rows, Spoilt)
    capturing = Capturing()
    monkeypatch.setattr(engine.encoder, "_fixed", Graphs(engine.encoder._step, capturing))
    for found, expected in zip(listen_together(engine, chunks), alone, strict=True):
        assert rounded(found) == rounded(expected)
    assert capturing.replayed > 0 or kind == "hybrid"
    free = len(engine.encoder.rows._free)
    assert engine.encoder.rows._count - free == 1  # the initial state of segments


def test_a_session_can_be_stepped_again_from_where_it_was(
    recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step does not change the session that it was given, even with states in a table."""
    monkeypatch.setattr(chunk_encoder, "Vectors", Spoilt)
    engine = Engine(babbler())
    first, second = recordings[0][:24_000], recordings[0][24_000:48_000]
    (before,), _ = engine.step([engine.start()], [first])
    heard = []
    for _ in range(2):
        (after,), (events,) = engine.step([before], [second])
        heard.append(events + engine.step([after], [torch.zeros(0)], [True])[1][0])
    assert heard[0]
    assert heard[0] == heard[1]


def heard(engine: Engine, pushed: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Encoder output in float32 of streams that are stepped together; nothing is committed."""
    sessions = [engine.start() for _ in pushed]
    for chunks in zip(*pushed, strict=True):
        sessions, _ = engine.step(sessions, chunks)
    return [session.open_segment.encoder_out.float() for session in sessions]


def halved(device: str = "cpu") -> Engine:
    recogniser = babbler(device)
    recogniser.model.cast(torch.bfloat16)
    return Engine(recogniser, UNCOMMITTED)


def near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Check equality up to rounding to 8 bits of mantissa in two layers."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().mean() < 0.05 * b.abs().mean()


def test_bfloat16_hears_nearly_what_float32_hears(recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder output in bfloat16 is close to float32, also with slots and graphs, whose features stay float32."""
    pushed = [recording[:64_000].split(6_000) for recording in recordings[:3]]
    expected = heard(Engine(babbler(), UNCOMMITTED), pushed)
    assert min(map(len, expected)) > 15
    plain = heard(halved(), pushed)
    near(plain, expected)
    monkeypatch.setattr(chunk_encoder, "Vectors", Spoilt)
    engine = halved()
    capturing = Capturing()
    monkeypatch.setattr(engine.encoder, "_fixed", Graphs(engine.encoder._step, capturing))
    found = heard(engine, pushed)
    near(found, expected)
    near(found, plain)
    assert capturing.replayed > 0


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_hears_nearly_what_float32_hears_on_a_cpu(recordings: list[Tensor]) -> None:
    pushed = [recording[:64_000].split(6_000) for recording in recordings[:3]]
    expected = heard(Engine(babbler(), UNCOMMITTED), pushed)
    near([found.cpu() for found in heard(halved("cuda"), pushed)], expected)


@pytest.mark.gpu
def test_a_gpu_has_the_same_events_with_and_without_slots_and_graphs(recordings: list[Tensor]) -> None:
    chunks, events = streams(recordings), []
    for on in (False, True):
        with fast.fast_paths(on):
            engine = Engine(babbler("cuda"))
        assert isinstance(engine.encoder.rows, Slots) == on
        assert isinstance(engine.encoder._fixed, Graphs) == on
        events.append([rounded(found) for found in listen_together(engine, chunks)])
    assert events[0] == events[1]
    assert engine.encoder._fixed._graphs  # type: ignore[union-attr]
