"""From audio to transcripts: batching, long files, failures, word times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.audio.segment import SegmentConfig
from asr.config import SearchConfig
from asr.errors import AudioError, CheckpointError, ConfigError, DeviceError
from asr.recogniser import Recogniser
from asr.steps import Steps
from asr.transcript import Segment, Transcript
from asr.writing.writer import Writer
from tests.support.small_model import small_model
from tests.support.tagger import RuleTagger

# The clips are noises, which the voice detector would rightly leave out.
ALL = SegmentConfig(presence_threshold=0.0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def recogniser(model_folder: Path) -> Recogniser:
    return asr.load(str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sixteen noises of different lengths, one of them shorter than a frame."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    paths = []
    for i, seconds in enumerate([0.01, *rng.uniform(0.3, 3.0, 15)]):
        paths.append(folder / f"{i}.wav")
        soundfile.write(paths[-1], rng.normal(0, 0.1, int(seconds * 16_000)), 16_000)
    return paths


@pytest.mark.parametrize("search", [SearchConfig(beam_size=1), SearchConfig(beam_size=4)], ids=["greedy", "beam"])
def test_batch_size_never_changes_the_answer(recogniser: Recogniser, clips: list[Path], search: SearchConfig) -> None:
    """A peer reports 20 % word errors at batch 8 and 3 % at batch 1 with the same model: padding had leaked in."""

    def run(batch_size: int) -> dict[Path, Transcript | None]:
        outcomes = recogniser.transcribe_many(clips, search=search, segment=ALL, batch_size=batch_size)
        return {o.source: o.transcript for o in outcomes}

    alone = run(1)
    assert sum(bool(t and t.text) for t in alone.values()) > 10
    for batch_size in (3, 16):
        together = run(batch_size)
        assert together.keys() == alone.keys()
        for source, transcript in together.items():
            expected = alone[source]
            assert transcript is not None
            assert expected is not None
            assert transcript.text == expected.text
            for a, b in zip(transcript.segments, expected.segments, strict=True):
                assert a.score == pytest.approx(b.score, abs=1e-4)
                assert [w.start_seconds for w in a.words] == [w.start_seconds for w in b.words]


def test_arrays_among_many_sources_are_at_16_khz(recogniser: Recogniser, clips: list[Path]) -> None:
    """They were once refused for lack of a sample rate, against the documentation."""
    samples = asr.audio.load(clips[1])
    outcomes = list(recogniser.transcribe_many([samples, samples.numpy(), clips[1]], segment=ALL))
    texts = [outcome.transcript.text for outcome in outcomes if outcome.transcript is not None]
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_one_unreadable_source_stops_no_other(recogniser: Recogniser, clips: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"this is no audio at all, whatever its name says")
    outcomes = list(recogniser.transcribe_many([clips[1], broken, tmp_path / "missing.wav", clips[2]]))
    failed = {o.source for o in outcomes if o.error is not None}
    done = {o.source for o in outcomes if o.transcript is not None}
    assert failed == {broken, tmp_path / "missing.wav"}
    assert done == {clips[1], clips[2]}
    with pytest.raises(AudioError, match=r"broken\.wav"):
        recogniser.transcribe(broken)


def test_an_exception_of_a_library_is_that_files_alone(
    recogniser: Recogniser, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A headerless `a.raw` raised a TypeError in soundfile, which ended the batch with a traceback."""
    blocks = asr.recogniser.blocks

    def breaking(source: Path, **options: Any) -> Iterator[torch.Tensor]:
        if source is clips[2]:
            raise TypeError("samplerate must be\n specified")
        yield from blocks(source, **options)
        if source is clips[3]:
            raise RuntimeError("half of it is missing")

    monkeypatch.setattr("asr.recogniser.blocks", breaking)
    for keep_damaged in (False, True):
        found = recogniser.transcribe_many(clips[1:5], segment=ALL, keep_damaged=keep_damaged)
        outcomes = {outcome.source: outcome for outcome in found}
        errors = {source: str(outcome.error) for source, outcome in outcomes.items() if outcome.error is not None}
        assert errors == {
            clips[2]: f"{clips[2]}: TypeError: samplerate must be specified",
            clips[3]: f"{clips[3]}: RuntimeError: half of it is missing",
        }
        assert isinstance(outcomes[clips[2]].error, AudioError)
        kept = {source for source, outcome in outcomes.items() if outcome.transcript is not None}
        assert kept == {clips[1], clips[4]} | ({clips[3]} if keep_damaged else set())


def test_a_batch_that_fails_is_decoded_one_by_one(
    recogniser: Recogniser, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that ran out over one long batch lost every file in it, and those after it."""
    steps, longest = recogniser.decode_steps, max(soundfile.info(clip).frames for clip in clips[1:])

    def cramped(waveforms: Sequence[torch.Tensor], *settings: Any) -> Steps[list[Segment]]:
        if len(waveforms) > 2 or len(waveforms[0]) == longest:
            raise MemoryError("no room")
        return steps(waveforms, *settings)

    expected = {o.source: o.transcript for o in recogniser.transcribe_many(clips[1:], segment=ALL)}
    monkeypatch.setattr(recogniser, "decode_steps", cramped)
    outcomes = list(recogniser.transcribe_many(clips[1:], segment=ALL, batch_size=4))
    (failed,) = (outcome for outcome in outcomes if outcome.error is not None)
    assert str(failed.error) == f"{failed.source}: MemoryError: no room"
    texts = {o.source: [s.text for s in o.transcript.segments] for o in outcomes if o.transcript is not None}
    assert len(texts) == len(clips) - 2
    assert texts == {source: [s.text for s in t.segments] for source, t in expected.items() if t and source in texts}


def test_words_lie_in_their_segment_in_order(recogniser: Recogniser, clips: list[Path]) -> None:
    transcript = recogniser.transcribe(clips[5], segment=ALL)
    assert transcript.words
    assert " ".join(w.text for w in transcript.words) == transcript.text
    times = [t for w in transcript.words for t in (w.start_seconds, w.end_seconds)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= transcript.duration_seconds
    assert all(0 < w.confidence <= 1 for w in transcript.words)


def test_nbest_begins_with_the_text_itself(recogniser: Recogniser, clips: list[Path]) -> None:
    segment = recogniser.transcribe(clips[4], search=SearchConfig(beam_size=6, nbest=4), segment=ALL).segments[0]
    assert 1 < len(segment.alternatives) <= 4
    assert segment.alternatives[0].text == segment.text
    scores = [a.score for a in segment.alternatives]
    assert scores == sorted(scores, reverse=True)


def test_an_array_gives_what_its_file_gives(recogniser: Recogniser, clips: list[Path]) -> None:
    samples, rate = soundfile.read(clips[3], dtype="float32")
    array = recogniser.transcribe(samples, sample_rate=rate, segment=ALL)
    assert array.text == recogniser.transcribe(clips[3], segment=ALL).text
    assert array.duration_seconds == pytest.approx(len(samples) / rate)


def test_a_long_file_is_cut_and_its_times_are_the_files(recogniser: Recogniser, recordings: list[torch.Tensor]) -> None:
    """A long file is cut at its silence, and the times of the second part are still on the file's clock."""
    clip = torch.cat(recordings[:2])
    waveform = torch.cat([clip, torch.zeros(48_000), clip])
    cut = SegmentConfig(max_seconds=len(clip) / 16_000 + 1)
    transcript = recogniser.transcribe(waveform.numpy(), sample_rate=16_000, segment=cut)
    starts = [s.start_seconds for s in transcript.segments]
    assert starts == sorted(starts)
    assert any(abs(s - (len(clip) / 16_000 + 3)) < 1.0 for s in starts)
    assert all(
        a.end_seconds <= b.start_seconds + 1e-6
        for a, b in zip(transcript.segments, transcript.segments[1:], strict=False)
    )
    assert transcript.duration_seconds == pytest.approx(len(waveform) / 16_000)


def test_the_level_of_a_recording_does_not_matter(
    model_folder: Path, recordings: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet speaker of dev had a seventh more errors than the same recordings 4 dB louder."""
    recogniser = asr.load(str(model_folder))

    def texts(speech_db: float | None) -> list[str]:
        config = dataclasses.replace(recogniser.model.config, speech_db=speech_db)
        monkeypatch.setattr(recogniser.model, "config", config)
        scaled = [factor * recordings[0][:40_000] for factor in (4.0, 0.25)]
        return [segment.text for segment in recogniser.decode(scaled, config.search, word_timestamps=False)]

    loud, quiet = texts(-26.0)
    assert loud == quiet
    loud, quiet = texts(None)
    assert loud != quiet  # otherwise this model would not notice


def test_silence_says_nothing(recogniser: Recogniser) -> None:
    transcript = recogniser.transcribe(np.zeros(60 * 16_000, dtype=np.float32), sample_rate=16_000)
    assert transcript.text == ""
    assert transcript.duration_seconds == 60


def test_half_precision_is_close(model_folder: Path, clips: list[Path]) -> None:
    """An untrained model in bfloat16 may change words, but runs and returns finite scores."""
    half = asr.load(str(model_folder), device="cpu", dtype="bfloat16")
    for outcome in half.transcribe_many(clips, segment=ALL):
        assert outcome.transcript is not None
        assert all(np.isfinite(s.score) for s in outcome.transcript.segments)


def test_what_cannot_be_had_is_refused_by_name(model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="nonesuch"):
        asr.load("nonesuch")
    with pytest.raises(DeviceError, match="float12"):
        asr.load(str(model_folder), dtype="float12")
    with pytest.raises(DeviceError, match="nonesuch"):
        asr.load(str(model_folder), device="nonesuch")
    with pytest.raises(ConfigError, match="batch_size"):
        list(asr.load(str(model_folder)).transcribe_many([], batch_size=0))


def test_an_array_and_its_rate_may_be_positional(recogniser: Recogniser) -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, 24_000)
    by_name = recogniser.transcribe(samples, sample_rate=8_000, segment=ALL)
    assert recogniser.transcribe(samples, 8_000, segment=ALL) == by_name
    assert by_name.duration_seconds == 3.0


def timed(segments: Iterable[Segment]) -> list[tuple[Any, ...]]:
    """Texts and times without scores, whose rounding differs between batches."""
    return [
        (s.text, s.start_seconds, s.end_seconds, *((w.text, w.start_seconds, w.end_seconds) for w in s.words))
        for s in segments
    ]


def test_segments_come_in_order_with_progress(recogniser: Recogniser, recordings: list[torch.Tensor]) -> None:
    """Segments of a long file come in order while later ones are still to be decoded."""
    sound = torch.cat([recordings[0], torch.zeros(16_000)] * 6)
    cuts = SegmentConfig(max_seconds=4.0)
    seen: list[float] = []
    found, heard = [], []
    for segment in recogniser.segments(sound, 16_000, segment=cuts, batch_size=2, progress=seen.append):
        found.append(segment)
        heard.append(len(seen))
    assert timed(found) == timed(recogniser.transcribe(sound, 16_000, segment=cuts, batch_size=2).segments)
    assert seen == sorted(seen)
    assert seen[-1] == len(sound) / 16_000
    assert heard[0] == 0  # the first segment came before the second batch was decoded
    assert heard[-1] > 0


def test_segments_before_a_read_error_are_yielded(
    recogniser: Recogniser, recordings: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a batch of them was lost, although the docstring said that they had been yielded."""
    sound = torch.cat([recordings[0], torch.zeros(16_000)] * 2)
    expected = timed(recogniser.transcribe(sound, 16_000).segments)

    def breaking(source: object, **options: Any) -> Iterator[torch.Tensor]:
        yield sound
        raise AudioError("talk.wav", "breaks off")

    monkeypatch.setattr("asr.recogniser.blocks", breaking)
    found: list[Segment] = []
    with pytest.raises(AudioError, match=r"talk\.wav: breaks off"):
        found.extend(recogniser.segments("talk.wav"))
    assert timed(found) == expected


def test_a_text_that_cannot_be_written_is_that_files_alone(
    recogniser: Recogniser, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the writer was blamed on the next file, and the file itself vanished with all behind it."""
    write_all = Writer.write_all

    def breaking(writer: Writer, segments: Sequence[Segment], *names: Any) -> list[Segment]:
        if len(broken) == 0:
            broken.append(True)
            raise MemoryError("1 GiB")
        return write_all(writer, segments, *names)

    broken: list[bool] = []
    monkeypatch.setattr(Writer, "write_all", breaking)
    outcomes = list(recogniser.transcribe_many(clips[1:5], segment=ALL, batch_size=1))
    assert {outcome.source for outcome in outcomes} == set(clips[1:5])
    (failed,) = (outcome for outcome in outcomes if outcome.error is not None)
    assert str(failed.error) == f"{failed.source}: MemoryError: 1 GiB"


def test_written_text_is_that_of_the_spoken_words(
    recogniser: Recogniser, clips: list[Path], recordings: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recogniser, "_writer", Writer(RuleTagger()))
    sound = torch.cat([recordings[0], torch.zeros(16_000)] * 3)
    cuts = SegmentConfig(max_seconds=4.0)
    spoken = recogniser.transcribe(sound, 16_000, segment=cuts, style="spoken")
    written = recogniser.transcribe(sound, 16_000, segment=cuts)
    assert spoken.text == spoken.text.lower() == spoken.spoken
    assert written.text != spoken.text
    assert written.as_spoken() == spoken
    assert list(written.segments) == recogniser.writer.write_all(spoken.segments)
    assert timed(written.segments) == timed(recogniser.segments(sound, 16_000, segment=cuts, batch_size=2))

    for clip, transcript, _ in recogniser.transcribe_many(clips[1:5], segment=ALL):
        alone = recogniser.transcribe(clip, segment=ALL)
        assert transcript is not None
        assert (transcript.text, transcript.spoken) == (alone.text, alone.spoken)


@pytest.mark.parametrize("style", ["Written", "", None, 3, ["written"]])
def test_an_unknown_style_is_refused(recogniser: Recogniser, style: Any) -> None:
    with pytest.raises(ConfigError, match=r"^style is .*: it must be written or spoken$"):
        recogniser.transcribe_many([], style=style)


def test_what_is_wrong_is_raised_while_iterating(recogniser: Recogniser) -> None:
    with pytest.raises(AudioError, match="nowhere"):
        list(recogniser.segments("nowhere.wav"))
    with pytest.raises(ConfigError, match="batch_size"):
        list(recogniser.segments("nowhere.wav", batch_size=0))
