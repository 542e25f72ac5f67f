"""Streams re-encode their latest chunks: the result is that of full context."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import Context
from streaming.endpoint import EndpointConfig
from streaming.engine import Engine, StreamConfig
from streaming.open_segment import OpenSegment
from streaming.policy import PolicyConfig
from tests.support.babbler import CONTEXTS, babbler, every_kind


@pytest.fixture(scope="module")
def waveform(recordings: list[Tensor]) -> Tensor:
    return recordings[0][:64_000]


def hear_and_release(engine: Engine, waveform: Tensor) -> tuple[OpenSegment, Tensor]:
    """An open segment and its encoded audio; early frames were released, as after a commit."""
    session = engine.start()
    for chunk in waveform.split(700):
        (session,), _ = engine.step([session], [chunk])
        if (now := session.segment) is not None and len(now.encoder_out) > 20 and not now.released:
            released = dataclasses.replace(now, encoder_out=now.encoder_out[7:], released=7)
            session = dataclasses.replace(session, segment=released)
    segment = session.open_segment
    assert segment.released == 7
    return segment, waveform[segment.start_samples : session.read_samples - len(segment.unencoded)]


@pytest.mark.parametrize("context", CONTEXTS[:3], ids=str)
@every_kind
def test_what_is_encoded_anew_has_heard_what_came_after(
    waveform: Tensor, context: Context, encoder: dict[str, Any]
) -> None:
    """With an overlap back to the start, frames equal those of full context, and are no later.

    Frames released before they have settled, as after a commit, do not come back.
    """
    policy = PolicyConfig(margin_ms=100_000)
    engine = Engine(
        babbler(**encoder), StreamConfig(context, EndpointConfig(max_seconds=30), policy, overlap_ms=10_000)
    )
    segment, heard = hear_and_release(engine, waveform)
    encoded = engine.model.encode(heard[None], torch.tensor([len(heard)])).encoder_out[0]
    known = segment.released + len(segment.encoder_out)
    assert segment.settled == 0
    torch.testing.assert_close(segment.encoder_out, encoded[segment.released : known], atol=1e-3, rtol=1e-3)
    assert known * 60 >= segment.samples / 16 - engine.latency_ms - 32


@pytest.mark.parametrize("overlap_ms", [300, 1200])
@pytest.mark.parametrize("context", [Context(300, 60), Context(360, 30)], ids=str)
@every_kind
def test_frames_settle_once_the_overlap_is_behind_them(
    waveform: Tensor, context: Context, encoder: dict[str, Any], overlap_ms: int
) -> None:
    """A chunk is final once the overlap after it is full, and the next chunk continues from its state."""
    policy = PolicyConfig(margin_ms=100_000)
    config = StreamConfig(context, EndpointConfig(max_seconds=30), policy, overlap_ms=overlap_ms)
    engine = Engine(babbler(**encoder), config)
    segment, heard = hear_and_release(engine, waveform)
    chunk, overlap = context.chunk_ms // 10, -(-overlap_ms // context.chunk_ms)  # in features, in chunks
    lookahead, frames = context.lookahead_ms // 10, chunk // 6
    features, _ = engine.model.features(heard[None], torch.tensor([len(heard)]))
    state, expected = engine.model.encoder.initial_state(1), []
    for n in range(segment.settled // frames):
        until = (n + 1 + overlap) * chunk + lookahead
        out, state = engine.model.encoder.preview(features[:, n * chunk : until], state, frames)
        expected.append(out[0, :frames])
    found = segment.encoder_out[: segment.settled - segment.released]
    assert segment.settled >= 20
    assert segment.released + len(segment.encoder_out) == segment.settled + overlap * frames
    assert engine.encoder.rows.batch([segment.carried]).recent.shape[1] == overlap * chunk + lookahead
    torch.testing.assert_close(found, torch.cat(expected)[segment.released :], atol=1e-3, rtol=1e-3)


def test_where_nothing_depends_on_what_follows_nothing_is_encoded_anew() -> None:
    assert Engine(babbler(bidirectional=False)).encoder.overlap_frames == 0
    assert Engine(babbler()).encoder.overlap_frames == 24  # four chunks of 360 ms
