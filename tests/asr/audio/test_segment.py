"""Segmentation at pauses: no speech is lost or repeated, and no span is too long."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, load, segment
from asr.audio.segment import WINDOW_SAMPLES, Cutter, SegmentConfig, Span, split, steps
from asr.audio.vad import Apply, StreamDetector, Windows
from asr.errors import ConfigError

SHORT = SegmentConfig(max_seconds=2.0, min_silence_ms=320, padding_ms=96, min_speech_ms=0)


def cut(probabilities: Iterable[float], config: SegmentConfig = SHORT) -> list[tuple[int, int]]:
    """The spans of `probabilities`, in samples."""
    cutter, total, spans = Cutter(config), 0, []
    for probability in probabilities:
        spans.append(cutter.push(probability))
        total += WINDOW_SAMPLES
        assert cutter.needed_from >= total - config.max_seconds * SAMPLE_RATE
    spans.append(cutter.finish(total))
    return [span for span in spans if span]


def windows(*runs: tuple[float, int]) -> list[float]:
    return [probability for probability, count in runs for _ in range(count)]


# --- The decision


@st.composite
def speech_and_silence(draw: st.DrawFn) -> list[float]:
    run = st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 120))
    return windows(*draw(st.lists(run, max_size=12)))


@given(st.one_of(speech_and_silence(), st.lists(st.floats(0, 1), max_size=300)))
def test_no_speech_is_lost_and_no_span_too_long(probabilities: list[float]) -> None:
    spans = cut(probabilities)
    assert all(start < end <= start + SHORT.max_seconds * SAMPLE_RATE for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    kept = {half for start, end in spans for half in range(start // 256, end // 256)}
    spoken = {index for index, probability in enumerate(probabilities) if probability >= SHORT.speech_threshold}
    assert all({2 * index, 2 * index + 1} <= kept for index in spoken)
    # The kept audio is never far from speech.
    allowed = (SHORT.min_silence_ms + SHORT.padding_ms) * SAMPLE_RATE // 1000
    weak = [(i + 1) * WINDOW_SAMPLES for i, p in enumerate(probabilities) if p >= SHORT.silence_threshold]
    assert all(any(start < end_of <= end + allowed for end_of in weak) for start, end in spans)


def test_a_pause_ends_a_span_and_is_dropped() -> None:
    padding = 96 * 16
    spans = cut(windows((0.0, 20), (1.0, 10), (0.0, 20), (1.0, 10), (0.0, 20)))
    assert spans == [
        (20 * 512 - padding, 30 * 512 + padding),
        (50 * 512 - padding, 60 * 512 + padding),
    ]


def test_a_short_pause_ends_nothing() -> None:
    assert len(cut(windows((1.0, 10), (0.0, 9), (1.0, 10)))) == 1
    assert len(cut(windows((1.0, 10), (0.0, 10), (1.0, 10)))) == 2


def test_speech_without_a_pause_is_cut_where_it_is_least_like_speech() -> None:
    probabilities = windows((0.9, 300))
    probabilities[10] = 0.1  # too early: the first half is kept whole
    probabilities[50] = 0.6
    spans = cut(probabilities)
    middle = 50 * 512 + 256
    assert spans[0] == (0, middle)
    assert spans[1][0] == middle
    assert spans[-1][1] == 300 * 512
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_silence_behind_a_cut_is_no_span_of_its_own() -> None:
    assert len(cut(windows((0.9, 61), (0.0, 40)))) == 1


def test_silence_and_clicks_give_nothing() -> None:
    assert cut(windows((0.01, 5000))) == []
    config = dataclasses.replace(SHORT, min_speech_ms=64)
    click = windows((0.0, 30), (1.0, 1), (0.0, 30))
    assert cut(click, config) == []
    assert len(cut(click, SHORT)) == 1
    assert len(cut(windows((0.0, 30), (1.0, 2), (0.0, 30)), config)) == 1


def test_the_last_word_is_kept_to_the_last_sample() -> None:
    cutter = Cutter(SHORT)
    for probability in windows((0.0, 10), (1.0, 4)):
        assert cutter.push(probability) is None
    assert cutter.finish(13 * 512 + 100) == (10 * 512 - 96 * 16, 13 * 512 + 100)


@pytest.mark.parametrize(
    "change",
    [
        {"max_seconds": 0.5},
        {"max_seconds": float("nan")},
        {"max_seconds": float("inf")},
        {"min_silence_ms": 0},
        {"min_silence_ms": 10_001},
        {"min_speech_ms": -1},
        {"padding_ms": -1},
        {"padding_ms": 701},
        {"speech_threshold": 1.0},
        {"speech_threshold": 0.2},
        {"silence_threshold": 0.0},
    ],
)
def test_settings_out_of_bounds_are_named(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"segment\.\w+ is "):
        SegmentConfig(**change)  # type: ignore[arg-type]


# --- Whole sources


class Loudness:
    """A stub for the detector: loud windows are speech."""

    def run(self, groups: Iterable[Windows], apply: Apply = map) -> Iterator[tuple[Windows, list[float]]]:
        for windows in groups:
            assert all(window.shape <= (WINDOW_SAMPLES,) for window in windows)
            yield windows, [float(window.abs().max().clamp(max=1)) for window in windows]


@pytest.fixture
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "StreamDetector", Loudness)


def talk(*runs: tuple[float, float]) -> torch.Tensor:
    """Noise of the given (loudness, seconds), every sample different."""
    parts = [volume * (0.8 + 0.2 * torch.rand(int(seconds * SAMPLE_RATE))) for volume, seconds in runs]
    return torch.cat(parts)


def check(waveform: torch.Tensor, spans: list[Span], config: SegmentConfig) -> None:
    """Spans are in order, disjoint and short enough, and contain all loud windows."""
    heard, end = torch.zeros(len(waveform), dtype=torch.bool), 0
    for span in spans:
        start = round(span.start_seconds * SAMPLE_RATE)
        assert start >= end
        end = start + len(span.waveform)
        assert 0 < len(span.waveform) <= config.max_seconds * SAMPLE_RATE
        assert torch.equal(span.waveform, waveform[start:end])
        heard[start:end] = True
    assert (waveform[~heard].abs() < config.speech_threshold).all()


def test_a_short_source_without_speech_gives_nothing() -> None:
    """Before the detector was asked about short sources too, a model made up words for five seconds of noise."""
    noise = 0.05 * torch.randn(5 * SAMPLE_RATE)
    tone = 0.3 * torch.sin(torch.arange(5 * SAMPLE_RATE) * 0.1)
    for waveform in (torch.zeros(5 * SAMPLE_RATE), noise, tone):
        assert list(split([waveform])) == []


def test_a_short_source_comes_whole_where_all_is_taken() -> None:
    for length in (1, 511, 512, 513, 2 * SAMPLE_RATE):
        waveform = torch.randn(length)
        (span,) = split(waveform.split(300), dataclasses.replace(SHORT, presence_threshold=0.0))
        assert span.start_seconds == 0.0
        assert torch.equal(span.waveform, waveform)
    assert list(split([], SHORT)) == []
    assert list(split([torch.empty(0)], SHORT)) == []


@pytest.mark.usefixtures("loudness")
def test_a_short_source_is_cut_at_its_pauses() -> None:
    """A recording of up to 20 s always came whole, and the model lost words after its pauses."""
    waveform = talk((0.0, 0.3), (1.0, 0.5), (0.0, 0.5), (1.0, 0.4))
    spans = list(split(waveform.split(777), SHORT))
    assert len(spans) == 2
    check(waveform, spans, SHORT)


@pytest.mark.usefixtures("loudness")
def test_a_short_source_without_pauses_keeps_its_silence() -> None:
    """The silence may hold speech too faint for the detector's upper threshold."""
    waveform = talk((0.4, 0.4), (0.0, 0.4), (1.0, 0.5), (0.0, 0.5))
    (span,) = split([waveform], SHORT)
    assert torch.equal(span.waveform, waveform)


def test_where_there_is_nothing_to_cut_the_caller_gets_his_turn() -> None:
    """A file with hours of silence, which must all be read, kept other files waiting."""
    assert list(steps([torch.zeros(35 * SAMPLE_RATE)], SHORT)) == [None] * 12


@pytest.mark.usefixtures("loudness")
def test_one_sample_more_is_cut() -> None:
    waveform = talk((1.0, 2.0), (1.0, 1 / SAMPLE_RATE))
    spans = list(split([waveform], SHORT))
    assert len(spans) == 2
    check(waveform, spans, SHORT)


@pytest.mark.usefixtures("loudness")
@settings(max_examples=20)
@given(st.lists(st.integers(0, 20_000), max_size=20), st.lists(st.floats(0, 3), min_size=1, max_size=5))
def test_blocks_do_not_matter(sizes: list[int], runs: list[float]) -> None:
    waveform = talk(*((float(index % 2 == 0), seconds) for index, seconds in enumerate([*runs, 2.5])))
    spans = list(split([waveform], SHORT))
    check(waveform, spans, SHORT)
    ends = list(itertools.accumulate(sizes))
    pieces = [waveform[start:end] for start, end in itertools.pairwise([0, *ends, len(waveform)]) if start <= end]
    pieces.append(waveform[sum(map(len, pieces)) :])
    again = list(split(pieces, SHORT))
    assert [span.start_seconds for span in again] == [span.start_seconds for span in spans]
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(again, spans, strict=True))


@pytest.mark.usefixtures("loudness")
def test_one_sample_at_a_time() -> None:
    waveform = talk((1.0, 0.5), (0.0, 0.5), (1.0, 1.2))
    whole, singly = list(split([waveform], SHORT)), list(split(waveform.split(1), SHORT))
    assert len(whole) == 2
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(whole, singly, strict=True))


@pytest.mark.usefixtures("loudness")
def test_a_cut_behind_the_last_sample_leaves_no_empty_span() -> None:
    """A cut in the middle of a shorter last window lay beyond the end: the file and all later ones failed."""
    volumes = torch.tensor(windows((1.0, 10), (0.0, 20), (0.9, 59), (0.6, 1)))
    waveform = volumes.repeat_interleave(WINDOW_SAMPLES)[: 200 - WINDOW_SAMPLES]
    first, second = split([waveform], SHORT)
    assert torch.equal(first.waveform, waveform[: 13 * WINDOW_SAMPLES])
    assert torch.equal(second.waveform, waveform[27 * WINDOW_SAMPLES :])


@pytest.mark.usefixtures("loudness")
def test_spans_come_before_the_source_ends() -> None:
    taken = 0

    def endless() -> Iterator[torch.Tensor]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield talk((1.0, 0.5), (0.0, 0.5))

    assert len(list(itertools.islice(split(endless(), SHORT), 5))) == 5
    assert taken < 20


# --- With silero-vad


def test_a_minute_of_silence_gives_no_span() -> None:
    quiet = (1e-3 * torch.randn(30 * SAMPLE_RATE) for _ in range(2))
    assert list(split(quiet)) == []


def test_detectors_run_side_by_side_and_leave_threads_alone() -> None:
    threads = torch.get_num_threads()
    noise = 0.1 * torch.randn(40, WINDOW_SAMPLES)
    one, other, single = StreamDetector(), StreamDetector(), StreamDetector()
    ((_, alone),) = single.run([list(noise)])
    ones, others = one.run([window] for window in noise), other.run([window.flip(0)] for window in noise)
    pairs = list(zip(ones, others, strict=True))
    assert [probability for (_, (probability,)), _ in pairs] == pytest.approx(alone, abs=1e-5)
    assert torch.get_num_threads() == threads


def test_real_speech_is_cut_between_its_words(speech_dir: Path) -> None:
    files = sorted(speech_dir.glob("dev/dev-clean/*"))[:4]
    if not files:
        pytest.skip(f"no speech in {speech_dir}")
    pause = torch.zeros(int(1.5 * SAMPLE_RATE))
    waveform = torch.cat([part for file in files for part in (load(file), pause)])
    spans = list(split(waveform.split(7777)))
    assert len(spans) >= len(files)
    heard, end = torch.zeros(len(waveform), dtype=torch.bool), 0
    for span in spans:
        start = round(span.start_seconds * SAMPLE_RATE)
        assert start >= end
        end = start + len(span.waveform)
        assert torch.equal(span.waveform, waveform[start:end])
        heard[start:end] = True
    assert waveform[~heard].square().sum() < 1e-3 * waveform.square().sum()
