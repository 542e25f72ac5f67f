"""Streams with their own hotwords: the engine keeps its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.search import alignment
from streaming.engine import Engine, StreamConfig
from streaming.events import Event
from streaming.policy import PolicyConfig
from streaming.segment_search import Reached
from tests.support.babbler import babbler
from tests.support.streams import finals, keeps_its_word, listen, rounded

LISTS = ["the hill:3, cat sat", None, "jazz:5, vexing hour, mat", "the hill:3, cat sat"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    recogniser = babbler()
    search = replace(recogniser.model.config.search, hotword_weight=2.0, hotword_margin=3.0)  # never whole phrases
    return Engine(recogniser, StreamConfig(policy=PolicyConfig("ctc", 240, 0, doubt_ms=0), final=search))


def with_hotwords(
    engine: Engine, hotwords: Sequence[str | None], streams: Sequence[Sequence[Tensor]]
) -> list[list[Event]]:
    """Events of streams with their hotwords, stepped together to their ends."""
    sessions = [engine.start(one) for one in hotwords]
    heard: list[list[Event]] = [[] for _ in sessions]
    for i in range(max(map(len, streams)) + 1):
        chunks = [stream[i] if i < len(stream) else torch.zeros(0) for stream in streams]
        sessions, events = engine.step(sessions, chunks, [i >= len(stream) for stream in streams])
        for row, found in zip(heard, events, strict=True):
            row += found
    return heard


def test_however_the_audio_is_cut_the_events_are_the_same(engine: Engine, recordings: list[Tensor]) -> None:
    waveform = recordings[0][:40_000]
    (whole,) = with_hotwords(engine, LISTS[:1], [[waveform]])
    assert rounded(whole) != rounded(listen(engine, [waveform]))  # the list has an effect
    assert keeps_its_word(whole) > 0
    for samples in (1_600, 5_123):
        assert with_hotwords(engine, LISTS[:1], [waveform.split(samples)]) == [whole]


def test_others_with_other_lists_never_change_the_answer(engine: Engine, recordings: list[Tensor]) -> None:
    streams = [recordings[i % 2][4_000 * i : 30_000 + 3_000 * i].split(4_000) for i in range(len(LISTS))]
    together = with_hotwords(engine, LISTS, streams)
    for found, hotwords, stream in zip(together, LISTS, streams, strict=True):
        (alone,) = with_hotwords(engine, [hotwords], [stream])
        assert rounded(found) == rounded(alone)
        assert finals(alone)


def test_words_aligned_in_the_search_have_the_same_times(
    engine: Engine, recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word times aligned during the search equal those of a new alignment."""
    streams = [recordings[0][:40_000].split(4_000)]
    found = with_hotwords(engine, LISTS[:1], streams)
    aligned, plain = [0], alignment.align

    def counted(*args: Any) -> Any:
        aligned[-1] += 1
        return plain(*args)

    monkeypatch.setattr(alignment, "align", counted)
    assert with_hotwords(engine, LISTS[:1], streams) == found
    aligned.append(0)
    monkeypatch.setattr(Reached, "spans", None)
    assert with_hotwords(engine, LISTS[:1], streams) == found
    assert aligned[0] < aligned[1]


def test_words_that_have_waited_are_searched_again_in_a_pause(
    engine: Engine, recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pause, where CTC finds no new words, only a stream with hotwords searches its waiting words again."""
    searches, find = [0], engine.search.find

    def counted(*args: Any) -> Any:
        searches[-1] += 1
        return find(*args)

    monkeypatch.setattr(engine.search, "outlines", lambda heard, first_frames: [()] * len(first_frames))
    monkeypatch.setattr(engine.search, "find", counted)
    for hotwords in (None, LISTS[0]):
        searches.append(0)
        with_hotwords(engine, [hotwords], [recordings[0][:24_000].split(4_000)])
    assert 0 < searches[1] < searches[2]


def test_wrong_hotwords_are_refused_before_the_stream_begins(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="hotword '東京': the model cannot spell '京', '東'"):
        engine.start("cat, 東京")
    greedy = Engine(babbler(), StreamConfig(partial_beam_size=1))
    with pytest.raises(ConfigError, match="beam_size is 1: it must be at least 2 with hotwords"):
        greedy.start(["cat"])
    assert greedy.start([]).spotter is None
