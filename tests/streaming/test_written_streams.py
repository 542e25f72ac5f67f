"""Written text of streams: it depends neither on chunks nor on other streams, and keeps the spoken words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.transcript import Segment
from asr.writing.hotwords import Hotwords
from asr.writing.writer import Writer
from streaming import Engine, Event, Final, Partial, StreamConfig
from tests.support.babbler import babbler
from tests.support.streams import finals, keeps_its_word, listen
from tests.support.tagger import RuleTagger


@pytest.fixture(scope="module")
def engine() -> Engine:
    recogniser = babbler()
    recogniser._writer = Writer(RuleTagger())
    return Engine(recogniser)


@pytest.fixture(scope="module")
def audio(recordings: list[Tensor]) -> Tensor:
    return torch.cat([recordings[0][:30_000], torch.zeros(20_000), recordings[1][:20_123]])


@pytest.fixture(scope="module")
def written(engine: Engine, audio: Tensor) -> list[Event]:
    return listen(engine, [audio])


def test_segments_are_written_in_order(engine: Engine, written: list[Event]) -> None:
    segments = [final.segment for final in finals(written)]
    assert len(segments) == 2
    assert segments[0].text != segments[0].spoken
    assert segments == engine.writer.write_all([segment.as_spoken() for segment in segments])


def test_words_are_those_of_the_spoken_style(engine: Engine, audio: Tensor, written: list[Event]) -> None:
    (session,), (events,) = engine.step([engine.start(style="spoken")], [audio], [True])
    assert [without_writing(event) for event in written] == events
    assert keeps_its_word(events) > 0
    assert session.context.words == ()


def test_partials_are_written_without_what_follows(written: list[Event]) -> None:
    partials = [event for event in written if isinstance(event, Partial) and event.spoken]
    assert any(partial.text != partial.spoken for partial in partials)
    assert all(partial.text.split()[-1][-1].isalpha() for partial in partials)  # the last word has no mark yet


def test_however_the_audio_is_cut_the_text_is_the_same(engine: Engine, audio: Tensor, written: list[Event]) -> None:
    for samples in (700, 9_001):
        assert listen(engine, audio.split(samples)) == written


def test_a_batch_of_streams_is_written_as_each_alone(engine: Engine, audio: Tensor) -> None:
    streams = [audio, audio.roll(8_000), torch.zeros(20_000), audio[:40_000]]
    starts: list[dict[str, Any]] = [{}, {"style": "spoken"}, {}, {"hotwords": Hotwords.of("the cat")}]
    alone = [engine.step([engine.start(**s)], [a], [True])[1][0] for s, a in zip(starts, streams, strict=True)]
    _, together = engine.step([engine.start(**s) for s in starts], streams, [True] * 4)
    assert [list(map(texts, events)) for events in together] == [list(map(texts, events)) for events in alone]


@pytest.mark.parametrize("style", ["", "Written", 3, ["spoken"]])
def test_an_unknown_style_is_refused(engine: Engine, style: Any) -> None:
    with pytest.raises(ConfigError, match="style"):
        StreamConfig(style=style)
    with pytest.raises(ConfigError, match="style"):
        engine.start(style=style)


def texts(event: Event) -> tuple[str, str]:
    return (event.text, event.spoken) if isinstance(event, Partial) else (event.text, event.segment.spoken)


def without_writing(event: Event) -> Event:
    if isinstance(event, Partial):
        return Partial(event.committed, event.tentative, event.heard_seconds)
    segment: Segment = event.segment.as_spoken()
    return Final(segment, event.heard_seconds)
