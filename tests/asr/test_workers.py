"""Batches decoded in parallel: the same transcripts, errors that name their file, and a prompt end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.audio.segment import WINDOW_SAMPLES, SegmentConfig
from asr.audio.vad import StreamDetector
from asr.batches import Batches
from asr.config import SearchConfig
from asr.errors import AudioError
from asr.jobs import Decoding
from asr.recogniser import Recogniser
from asr.steps import Steps
from asr.transcript import Segment
from asr.workers import Workers
from tests.support.small_model import small_model

ALL = SegmentConfig(presence_threshold=0.0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    return asr.load(str(small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine noises of different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i, seconds in enumerate(rng.uniform(0.3, 2.0, 9)):
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, int(seconds * 16_000)), 16_000)
    return sorted(folder.iterdir())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_threads_find_what_one_finds(recogniser: Recogniser, clips: list[Path], two_threads: None) -> None:
    """Two workers give the same transcripts as one, each with one PyTorch thread: two threads each were slower."""
    used: dict[str, int] = {}
    steps = recogniser.decode_steps

    def noted(*arguments: Any) -> Any:
        used[threading.current_thread().name] = torch.get_num_threads()
        return steps(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recogniser, "decode_steps", noted)
        many = {o.source: o.transcript for o in recogniser.transcribe_many(clips, segment=ALL, batch_size=2)}
        segments = list(recogniser.segments(clips[0], segment=ALL))
    assert torch.get_num_threads() == 2
    assert {name.rpartition("_")[0] for name in used} == {"spellstream-worker"}
    assert {*used.values()} == {1}

    torch.set_num_threads(1)
    one = {o.source: o.transcript for o in recogniser.transcribe_many(clips, segment=ALL, batch_size=2)}
    assert {k: t and t.text for k, t in many.items()} == {k: t and t.text for k, t in one.items()}
    assert [s.text for s in segments] == [s.text for s in recogniser.segments(clips[0], segment=ALL)]


def test_an_error_of_a_worker_names_its_file(
    recogniser: Recogniser, clips: list[Path], two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose decoding fails in a worker is reported once, by name; the other files get transcripts."""
    steps, longest = recogniser.decode_steps, max(clips, key=lambda clip: soundfile.info(clip).frames)
    frames = soundfile.info(longest).frames

    def cramped(waveforms: Any, *settings: Any) -> Any:
        if any(len(waveform) == frames for waveform in waveforms):
            raise MemoryError("no room")
        return steps(waveforms, *settings)

    monkeypatch.setattr(recogniser, "decode_steps", cramped)
    outcomes = list(recogniser.transcribe_many(clips, segment=ALL, batch_size=3))
    assert sorted(o.source for o in outcomes) == clips
    assert [str(o.error) for o in outcomes if o.error] == [f"{longest}: MemoryError: no room"]


def test_a_file_that_breaks_off_while_it_is_decoded_is_reported_once(recogniser: Recogniser, two_threads: None) -> None:
    """A file whose reading fails while its batches are decoded has one outcome; the next file is transcribed."""
    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    begun = threading.Event()

    def steps(waveforms: Sequence[Tensor]) -> Steps[list[Segment]]:
        begun.set()
        return (yield from recogniser.decode_steps(waveforms, greedy, word_timestamps=False))

    def broken() -> Generator[Tensor, None, None]:
        for _ in range(80):  # longer than what the speech detector takes at a time, and ahead
            yield noise
        assert begun.wait(30)
        raise AudioError("broken", "is cut short")

    greedy, sources = SearchConfig(beam_size=1), [("broken", broken()), ("whole", (noise for _ in range(3)))]
    spans_of_a_second = SegmentConfig(1.0, 500, speech_threshold=1e-9, silence_threshold=1e-9, presence_threshold=0.0)
    decoding = Decoding(greedy, spans_of_a_second, word_timestamps=False, batch_size=2)
    outcomes = list(Batches(steps, decoding, CPU).run(sources))
    assert [o.source for o in outcomes] == ["broken", "whole"]
    assert [o.error and str(o.error) for o in outcomes] == ["broken: is cut short", None]


def test_leaving_ends_the_work_after_the_step_under_way(two_threads: None) -> None:
    """Ctrl-C waited until all started batches were finished."""
    begun, ended = threading.Event(), threading.Event()

    def endless(item: int) -> Steps[int]:
        try:
            for _ in itertools.count():
                begun.set()
                yield
        finally:
            ended.set()
        return item

    def interrupted() -> None:
        with Workers(CPU) as workers:
            workers.map(endless, range(9))
            assert begun.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spellstream-worker")]
    assert torch.get_num_threads() == 2


def test_results_come_in_order_and_an_error_where_it_is(two_threads: None) -> None:
    def work(item: int) -> Steps[int]:
        yield
        if item == 3:
            raise ValueError("three")
        return item * item

    with Workers(CPU) as workers:
        found = workers.map(work, range(5))
        assert [next(found) for _ in range(3)] == [0, 1, 4]
        with pytest.raises(ValueError, match="three"):
            next(found)


def test_threads_work_ahead_and_results_come_in_order(two_threads: None) -> None:
    names: set[str] = set()

    def work(item: int) -> int:
        names.add(threading.current_thread().name)
        if item == 30:
            raise ValueError("thirty")
        time.sleep(0.002 * (item % 3))
        return item * item

    with Workers(CPU) as workers:
        found = workers.ahead(work, itertools.count())
        assert [next(found) for _ in range(30)] == [item * item for item in range(30)]
        assert {name.rpartition("_")[0] for name in names} == {"spellstream-ahead"}
        with pytest.raises(ValueError, match="thirty"):
            next(found)


def test_work_ahead_waits_for_no_batch(two_threads: None) -> None:
    """The speech detector works ahead while batches keep their threads busy."""
    released = threading.Event()

    def batch(item: int) -> Steps[int]:
        yield
        assert released.wait(30)
        return item

    with Workers(CPU) as workers:
        batches = workers.map(batch, range(4))
        assert [*workers.ahead(str, range(9))] == [*map(str, range(9))]
        released.set()
        assert [*batches] == [*range(4)]


def test_speech_detected_ahead_is_the_same_bit_by_bit(two_threads: None) -> None:
    """Groups of windows heard by several threads at a time have the probabilities that they have one by one."""
    noise = torch.randn(90 * WINDOW_SAMPLES + 100, generator=torch.Generator().manual_seed(0))
    windows = (noise * torch.linspace(0, 1, len(noise))).split(WINDOW_SAMPLES)
    groups = [windows[start : start + 7] for start in range(0, len(windows), 7)]
    with Workers(CPU) as workers:
        found = [probabilities for _, probabilities in StreamDetector().run(groups, workers.ahead)]
        assert found == [probabilities for _, probabilities in StreamDetector().run(groups)]
    assert [len(each) for each in found] == [len(group) for group in groups]
