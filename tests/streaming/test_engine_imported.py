"""Streams with the parts of imported models: convolutional front, features in decibels, GRU cells."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from asr.config import Context
from streaming.endpoint import EndpointConfig
from streaming.engine import Engine, StreamConfig
from streaming.policy import PolicyConfig
from tests.support.babbler import babbler
from tests.support.streams import finals, keeps_its_word, listen, listen_together, rounded


@pytest.fixture(scope="module")
def engine() -> Engine:
    # An untrained model doubts every word.
    return Engine(babbler(theirs=True), StreamConfig(policy=PolicyConfig(doubt_ms=0)))


def test_however_the_audio_is_cut_the_events_are_the_same(engine: Engine, recordings: list[Tensor]) -> None:
    waveform = torch.cat([recordings[0][:30_000], torch.zeros(20_000), recordings[1][:20_123]])
    whole = listen(engine, [waveform])
    assert len(finals(whole)) == 2
    assert keeps_its_word(whole) >= 1
    generator, sizes = random.Random(1), [160] * 40
    while sum(sizes) < len(waveform):
        sizes.append(generator.choice((0, 1, 511, 513, generator.randrange(9_000))))
    sizes[-1] -= sum(sizes) - len(waveform)
    assert listen(engine, waveform.split(sizes)) == whole


@pytest.mark.parametrize(
    ("context", "overlap_ms"), [(Context(360, 120), 0), (Context(100, 60), 0), (None, 10_000)], ids=str
)
def test_encoder_out_is_that_of_the_whole_segment(
    recordings: list[Tensor], context: Context | None, overlap_ms: int
) -> None:
    """Encoder output equals the whole segment's in the stream's context or, with full overlap, in full context.

    Features are those of a stream, whose floor depends on the loudest bin so far.
    """
    nothing_committed = PolicyConfig(margin_ms=100_000)
    stream = context or Context(360, 120)
    config = StreamConfig(stream, EndpointConfig(max_seconds=30), nothing_committed, overlap_ms=overlap_ms)
    engine = Engine(babbler(theirs=True), config)
    session = engine.start()
    for chunk in recordings[0][:48_000].split(700):
        (session,), _ = engine.step([session], [chunk])
    segment = session.open_segment
    heard = recordings[0][segment.start_samples : session.read_samples - len(segment.unencoded)]
    features, _ = engine.model.features.step(heard[None], engine.model.features.initial_state(1))
    encoded, _ = engine.model.encode_features(features, torch.tensor([features.shape[1]]), context)
    known = len(segment.encoder_out)
    torch.testing.assert_close(segment.encoder_out, encoded[0, :known], atol=1e-3, rtol=1e-3)
    assert known * 40 >= segment.samples / 16 - engine.latency_ms - 32


def test_the_size_of_the_batch_never_changes_the_answer(engine: Engine, recordings: list[Tensor]) -> None:
    streams = [torch.roll(recordings[i], 7_777 * i)[: 24_000 + 1_500 * i] for i in range(4)]
    alone = [listen(engine, stream.split(5_120)) for stream in streams]
    heard = listen_together(engine, [stream.split(5_120) for stream in streams])
    assert sum(bool(finals(events)) for events in alone) >= 3
    for now_heard, events in zip(heard, alone, strict=True):
        assert rounded(now_heard) == rounded(events)
