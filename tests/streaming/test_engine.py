"""Streams through the engine: promises 1 to 5 of the design, on real speech with a small untrained model."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import asr
from asr import audio
from asr.config import Context, SearchConfig
from asr.errors import AudioError, ConfigError
from asr.model.las import Encoded
from streaming.endpoint import EndpointConfig
from streaming.engine import Engine, StreamConfig
from streaming.events import Final, Partial
from streaming.policy import PolicyConfig
from streaming.segment_search import Reached
from streaming.session import Session
from tests.support.babbler import CONTEXTS, babbler, every_kind
from tests.support.streams import finals, keeps_its_word, listen, listen_together, no_speech, rounded


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(babbler())


@pytest.mark.parametrize("kind", ["ctc", "attention", "agreement"])
def test_however_the_audio_is_cut_the_events_are_the_same(recordings: list[Tensor], kind: Any) -> None:
    engine = Engine(babbler(), StreamConfig(policy=PolicyConfig(kind, 240, doubt_ms=0)))
    waveform = torch.cat([recordings[0][:30_000], torch.zeros(20_000), recordings[1][:20_123]])
    whole = listen(engine, [waveform])
    assert len(finals(whole)) == 2
    assert all(final.text for final in finals(whole))
    for samples in (160, 5_120, 32_000):
        assert listen(engine, waveform.split(samples)) == whole
    generator = random.Random(1)
    sizes = []
    while sum(sizes) < len(waveform):
        sizes.append(generator.choice((0, 1, 511, 512, 513, generator.randrange(9_000))))
    sizes[-1] -= sum(sizes) - len(waveform)
    assert listen(engine, waveform.split(sizes)) == whole


def test_the_gain_of_a_segment_is_that_of_its_start(recordings: list[Tensor]) -> None:
    """A quiet speaker of dev lost more words; the level of the first windows must not depend on how audio is cut."""
    recogniser = babbler()
    recogniser.model.config = dataclasses.replace(recogniser.model.config, speech_db=-26.0)
    engine = Engine(recogniser, StreamConfig(policy=PolicyConfig(margin_ms=240, doubt_ms=0)))
    waveform = torch.cat([recordings[0][:30_000], torch.zeros(20_000), 0.2 * recordings[1][:20_123]])
    whole = listen(engine, [waveform])
    assert len(finals(whole)) == 2
    for samples in (160, 5_120):
        assert listen(engine, waveform.split(samples)) == whole

    gains = []
    for factor in (1.0, 0.5):
        session = engine.start()
        for chunk in (factor * recordings[0][:30_000]).split(5_120):
            (session,), _ = engine.step([session], [chunk])
        gains.append(session.open_segment.gain)
    assert gains[1] / gains[0] == pytest.approx(2**0.7, rel=0.2)  # the segment may begin a window later


def test_even_if_it_comes_sample_by_sample(engine: Engine, recordings: list[Tensor]) -> None:
    waveform = recordings[0][4_000:20_001]
    whole = listen(engine, [waveform])
    assert finals(whole)
    assert listen(engine, waveform.split(1)) == whole


def test_the_last_chunk_may_be_the_end(engine: Engine, recordings: list[Tensor]) -> None:
    (_,), (events,) = engine.step([engine.start()], [recordings[0][:40_000]], [True])
    assert events == listen(engine, [recordings[0][:40_000]])


@every_kind
def test_the_size_of_the_batch_never_changes_the_answer(recordings: list[Tensor], encoder: dict[str, Any]) -> None:
    """A stream's events are the same beside sixteen others with other audio, starts, chunk sizes and ends."""
    engine = Engine(babbler(**encoder))
    streams = [torch.roll(recordings[i % 8], 7_777 * i)[: 16_000 + 1_500 * i] for i in range(17)]
    streams[3], streams[9] = torch.zeros(20_000), 0.1 * torch.randn(20_000)
    sizes = [512 + 331 * i for i in range(17)]
    alone = [listen(engine, s.split(n)) for s, n in zip(streams, sizes, strict=True)]
    assert sum(bool(events) for events in alone) >= 12
    chunks = [
        [torch.zeros(0)] * (i % 5) + list(s.split(n)) for i, (s, n) in enumerate(zip(streams, sizes, strict=True))
    ]
    heard = listen_together(engine, chunks)
    for i, events in enumerate(alone):
        assert rounded(heard[i]) == rounded(events), i


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_encoder_out_is_that_of_the_whole_segment(recordings: list[Tensor], context: Context) -> None:
    """Encoder output of a stream equals that of the whole segment, no later than the engine's latency."""
    nothing_committed = PolicyConfig(margin_ms=100_000)
    config = StreamConfig(context, EndpointConfig(max_seconds=30), nothing_committed, overlap_ms=0)
    engine = Engine(babbler(), config)
    session = engine.start()
    for chunk in recordings[0][:48_000].split(700):
        (session,), _ = engine.step([session], [chunk])
    segment = session.open_segment
    heard = recordings[0][segment.start_samples : session.read_samples]
    encoded = engine.model.encode(heard[None], torch.tensor([len(heard)]), context).encoder_out[0]
    known = len(segment.encoder_out)
    torch.testing.assert_close(segment.encoder_out, encoded[:known], atol=1e-4, rtol=1e-4)
    assert known * 60 >= len(heard) / 16 - engine.latency_ms - 32


@pytest.mark.parametrize("margin_ms", [0, 480])
@pytest.mark.parametrize("kind", ["ctc", "attention", "agreement"])
@pytest.mark.parametrize("overlap_ms", [0, 1200])
def test_what_is_committed_never_changes(recordings: list[Tensor], kind: Any, margin_ms: int, overlap_ms: int) -> None:
    policy = PolicyConfig(kind, margin_ms, doubt_ms=0, show_margin_ms=0)  # an untrained model doubts every word
    endpoint = EndpointConfig(max_seconds=4.0)
    config = StreamConfig(policy=policy, endpoint=endpoint, overlap_ms=overlap_ms)
    events = listen(Engine(babbler(), config), torch.cat(recordings[:2])[:160_000].split(5_120))
    committed = keeps_its_word(events)
    assert committed >= (3 if kind == "ctc" else 1)  # an untrained model rarely agrees with itself
    partials = [event for event in events if isinstance(event, Partial)]
    assert any(p.tentative for p in partials)
    assert all(a.heard_seconds <= b.heard_seconds for a, b in itertools.pairwise(events))
    times = [t for f in finals(events) for w in f.segment.words for t in (w.start_seconds, w.end_seconds)]
    assert times == sorted(times)


def test_what_ctc_finds_again_is_not_searched_again(recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(babbler(), StreamConfig(policy=PolicyConfig(show_margin_ms=0)))
    searched: list[bool] = []
    find = engine.search.find

    def counted(*arguments: Any) -> Any:
        searched.append(arguments[2] == engine.partial)
        return find(*arguments)

    monkeypatch.setattr(engine.search, "find", counted)
    chunks = recordings[0][:48_000].split(5_120)
    listen(engine, chunks)
    assert sum(searched) > 2

    searched.clear()
    monkeypatch.setattr(engine.search, "outlines", lambda heard, first_frames: [(5,)] * len(first_frames))
    events = listen(engine, chunks)
    assert searched == [True]
    partials = [event.text for event in events if isinstance(event, Partial)]
    assert all(partials)
    assert len(set(partials)) == 1


@pytest.mark.parametrize("config", [StreamConfig(alternatives=2), StreamConfig(final=SearchConfig(beam_size=4))])
def test_a_search_of_its_own_at_the_end_is_never_left_out(
    recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch, config: StreamConfig
) -> None:
    engine = Engine(babbler(), config)
    searched: list[SearchConfig] = []
    find = engine.search.find

    def noted(*arguments: Any) -> Any:
        searched.append(arguments[2])
        return find(*arguments)

    monkeypatch.setattr(engine.search, "find", noted)
    monkeypatch.setattr(engine.search, "outlines", lambda heard, first_frames: [(5,)] * len(first_frames))
    listen(engine, recordings[0][:48_000].split(5_120))
    assert searched == [engine.partial, engine.final]


def test_states_of_the_search_are_those_of_decoding_again(
    recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a commit, the states after the words come from the beam; without it, the words are decoded again."""
    engine = Engine(babbler(), StreamConfig(policy=PolicyConfig(margin_ms=300, doubt_ms=0)))
    chunks = torch.cat(recordings[:2])[:160_000].split(5_120)
    taken = []
    state = Reached.state

    def counted(self: Reached, tokens: Sequence[int]) -> Any:
        taken.append(found := state(self, tokens))
        return found

    monkeypatch.setattr(Reached, "state", counted)
    events = listen(engine, chunks)
    assert taken
    assert all(found is not None for found in taken)
    monkeypatch.setattr(Reached, "state", lambda self, tokens: None)
    assert rounded(listen(engine, chunks)) == rounded(events)


def test_outlines_are_what_ctc_finds_after_a_frame(engine: Engine) -> None:
    frames = torch.randn(2, 40, engine.model.config.encoder.output_size)
    heard = engine.search.hear(Encoded(frames, torch.tensor([40, 25])))
    whole = engine.search.outlines(heard, [0, 0])
    assert len(whole[0]) > len(whole[1]) > 3
    assert engine.search.outlines(heard, [40, 25]) == [(), ()]
    short = engine.search.outlines(engine.search.hear(Encoded(frames[1:, :25], torch.tensor([25]))), [0])
    assert short == whole[1:]
    later = engine.search.outlines(heard, [20, 20])
    assert all(part == all_of[-len(part) :] for part, all_of in zip(later, whole, strict=True))


def test_too_long_a_segment_is_cut_and_nothing_lost(recordings: list[Tensor]) -> None:
    waveform = torch.cat([clip[8_000:-8_000] for clip in recordings[:3]])[:192_000]
    rules = EndpointConfig(max_seconds=2.0, min_silence_ms=2_000)
    events = listen(Engine(babbler(), StreamConfig(endpoint=rules)), waveform.split(5_120))
    segments = [final.segment for final in finals(events)]
    assert len(segments) > len(waveform) / 32_000
    assert keeps_its_word(events) > 0
    gaps = [b.start_seconds - a.end_seconds for a, b in itertools.pairwise(segments)]
    assert all(0 <= gap < 0.7 for gap in gaps)  # a pause
    assert gaps.count(0) > len(gaps) / 2
    assert segments[-1].end_seconds == pytest.approx(len(waveform) / 16_000)
    assert all(0 < s.end_seconds - s.start_seconds <= 2.032 for s in segments)


@pytest.mark.parametrize("samples", [30_000, 33_333, 40_961])
def test_the_last_word_is_not_lost(engine: Engine, recordings: list[Tensor], samples: int) -> None:
    events = listen(engine, recordings[0][:samples].split(5_120))
    assert isinstance(events[-1], Final)
    assert events[-1].text
    assert events[-1].segment.end_seconds == events[-1].heard_seconds == samples / 16_000


def test_a_session_that_ended_may_go_on(engine: Engine, recordings: list[Tensor]) -> None:
    clip = recordings[0][:40_000]
    (session,), _ = engine.step([engine.start()], [clip], [True])
    (_,), (events,) = engine.step([session], [torch.cat([torch.zeros(32_000), clip])], [True])
    assert [len(f.segment.words) > 0 for f in finals(events)] == [True]
    assert finals(events)[0].segment.start_seconds > len(clip) / 16_000 + 1.5


def test_nothing_gives_nothing(engine: Engine) -> None:
    assert engine.step([], []) == ([], [])
    assert listen(engine, []) == listen(engine, [torch.zeros(0)]) == listen(engine, [torch.zeros(1)]) == []


@pytest.mark.parametrize("seconds", [10, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["silence", "noise", "tones"])
def test_what_is_no_speech_says_nothing(engine: Engine, kind: str, seconds: int) -> None:
    assert listen(engine, no_speech(kind, seconds).split(5_120)) == []


def test_odd_chunks_are_refused_and_do_no_harm(engine: Engine, recordings: list[Tensor]) -> None:
    sessions = [engine.start(), engine.start()]
    with pytest.raises(AudioError, match=r"stream 1: .*NaN"):
        engine.step(sessions, [recordings[0], torch.full((5,), torch.nan)])
    (_, after), (events, _) = engine.step(sessions, [recordings[0][:40_000], recordings[1][:40_000]], [True, False])
    assert rounded(events) == rounded(listen(engine, [recordings[0][:40_000]]))
    assert after.read_samples > 0


def test_the_callers_buffer_may_be_used_again(engine: Engine, recordings: list[Tensor]) -> None:
    session, heard, buffer = engine.start(), [], torch.zeros(700)
    for chunk in recordings[0][:40_000].split(700):
        buffer[: len(chunk)] = chunk
        (session,), (events,) = engine.step([session], [buffer[: len(chunk)]])
        buffer.fill_(0.5)
        heard += events
    heard += engine.step([session], [torch.zeros(0)], [True])[1][0]
    assert heard == listen(engine, [recordings[0][:40_000]])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="partial_beam_size"):
        StreamConfig(partial_beam_size=0)
    with pytest.raises(ConfigError, match="chunk_ms"):
        Engine(babbler(), StreamConfig(context=Context.full()))
    assert Engine(babbler(), StreamConfig(context=Context(360, 120))).latency_ms == 360 + 120 + 22


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from tensors(getattr(value, f.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def kept_bytes(session: Session) -> int:
    """Bytes of memory that a session keeps alive; a view counts as its whole storage."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(session)}
    return sum(storages.values())


@pytest.mark.parametrize("minutes", [(0.3, 0.8), pytest.param((2, 20), marks=pytest.mark.slow)], ids=str)
def test_a_session_stays_as_small_as_it_was(recordings: list[Tensor], minutes: tuple[float, float]) -> None:
    engine = Engine(babbler(), StreamConfig(endpoint=EndpointConfig(max_seconds=5.0)))
    stream = itertools.cycle(
        torch.cat([t for clip in recordings[:3] for t in (clip, torch.zeros(20_000))]).split(32_000)
    )
    session, sizes = engine.start(), []
    while session.heard_seconds < 60 * minutes[1]:
        (session,), _ = engine.step([session], [next(stream)])
        sizes.append((session.heard_seconds, kept_bytes(session)))
    early = max(size for seconds, size in sizes if seconds <= 60 * minutes[0])
    late = max(size for seconds, size in sizes if seconds > 60 * minutes[0])
    assert late < 1.2 * early
    assert late < 2_000_000


@pytest.mark.slow
def test_thirty_minutes_neither_loop_nor_grow_nor_stop(speech_dir: Path, repository_root: Path) -> None:
    """Thirty minutes of recordings with pauses of 0.2 to 3 s, by the shipped model if available: stable to the end."""
    shipped = (repository_root / "asr/pretrained/default/model.safetensors").is_file()
    engine = Engine(asr.load("default", device="cpu") if shipped else babbler())
    generator, session, events, spans, memory = random.Random(0), engine.start(), [], [], []
    for path in itertools.cycle(sorted((speech_dir / "dev").glob("*/*"))):
        clip = torch.cat([audio.load(path), torch.zeros(generator.randrange(3_200, 48_000))])
        spans.append((session.heard_seconds, session.heard_seconds + len(clip) / 16_000))
        for chunk in clip.split(5_120):
            (session,), (found,) = engine.step([session], [chunk])
            events += found
        memory.append((session.heard_seconds, kept_bytes(session), occupied()))
        if session.heard_seconds > 1_800:
            break
    keeps_its_word(events)
    segments = [final.segment for final in finals(events) if final.text]
    heard = [any(s.start_seconds < b and s.end_seconds > a for s in segments) for a, b in spans]
    assert sum(heard) > 0.98 * len(heard)
    loops = [s.text for s in segments if re.search(r"\b(\w+(?: \w+){0,7})(?: \1){5}\b", s.text)]
    assert not loops or not shipped
    assert max(kept for _, kept, _ in memory) < 20_000_000
    early, late = (max(rss for s, _, rss in memory if a <= s < b) for a, b in ((300, 600), (1_500, 1_900)))
    assert late - early < 50_000_000


def occupied() -> int:
    """Resident memory of this process in bytes."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else 0


@pytest.mark.gpu
def test_a_gpu_says_what_the_cpu_says(recordings: list[Tensor]) -> None:
    heard = []
    for device in ("cpu", "cuda"):
        engine = Engine(babbler(device))
        sessions = [engine.start() for _ in recordings]
        _, events = engine.step(sessions, recordings, [True] * len(recordings))
        heard.append([[final.text for final in finals(found)] for found in events])
    assert heard[0] == heard[1]
