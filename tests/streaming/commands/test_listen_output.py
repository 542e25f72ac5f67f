"""Output of `spellstream listen`, event by event: transcripts, recording, latency, live view."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from rich.console import Console

from asr.errors import DataError
from asr.transcript import Segment, Word
from streaming import Event, Final, Partial
from streaming.commands.display import LiveStatistics, LiveView
from streaming.commands.writers import TranscriptWriter, WavWriter, transcript_file
from tests.support.replay import CHUNK_SAMPLES, Replay


def words(*texts: str, start: float = 0.0) -> tuple[Word, ...]:
    return tuple(Word(text, start + i, start + i + 0.5, 0.9) for i, text in enumerate(texts))


def final(*texts: str, start: float = 0.0) -> Final:
    spoken = words(*texts, start=start)
    return Final(Segment(" ".join(texts), start, start + len(texts), -1.0, spoken), start + len(texts) + 1)


EVENTS: list[Event] = [
    Partial((), words("on"), 0.7),
    final("one", "<two>"),
    Partial((), words("hm", start=5), 6.0),
    Final(Segment("", 5.0, 6.0, 0.0), 7.0),
    final("three", start=9),
]


WRITTEN = {  # text written at the start, then for each event
    "txt": ["", "", "one <two>\n", "", "", "three\n"],
    "srt": [
        "",
        "",
        "1\n00:00:00,000 --> 00:00:01,500\none <two>\n",
        "",
        "",
        "\n2\n00:00:09,000 --> 00:00:10,000\nthree\n",
    ],
    "vtt": [
        "WEBVTT\n",
        "",
        "\n00:00:00.000 --> 00:00:01.500\none &lt;two&gt;\n",
        "",
        "",
        "\n00:00:09.000 --> 00:00:10.000\nthree\n",
    ],
}


@pytest.mark.parametrize("format_name", WRITTEN)
def test_transcripts_are_written_as_they_come(tmp_path: Path, format_name: str) -> None:
    path = tmp_path / "talk"
    so_far, *following = WRITTEN[format_name]
    with transcript_file(path, format_name) as writer:
        assert path.read_text() == so_far
        for event, text in zip(EVENTS, following, strict=True):
            writer.show(event)
            so_far += text
            assert path.read_text() == so_far


def test_a_final_without_words_takes_its_partials_back(tmp_path: Path) -> None:
    for partials, expected in ((False, ["one <two>", "three"]), (True, ["on", "one <two>", "hm", "", "three"])):
        file = io.StringIO()
        writer = TranscriptWriter(file, "talk", "jsonl", partials=partials)
        for event in EVENTS:
            writer.show(event)
        assert [json.loads(line)["text"] for line in file.getvalue().splitlines()] == expected


def test_lines_of_written_text_have_the_spoken_words_too() -> None:
    spoken = words("twenty", "five")
    segment = Segment("25.", 0.0, 2.0, -1.0, words("25."), (), "twenty five", spoken)
    file = io.StringIO()
    writer = TranscriptWriter(file, "talk", "jsonl", partials=True)
    writer.show(Partial(spoken[:1], spoken[1:], 2.0, "25"))
    writer.show(Final(segment, 3.0))
    partial, line = map(json.loads, file.getvalue().splitlines())
    assert (partial["text"], [word["text"] for word in partial["committed"]]) == ("25", ["twenty"])
    assert (line["text"], line["spoken"]) == ("25.", "twenty five")
    assert [word["text"] for word in line["words"]] == ["25."]
    assert [word["text"] for word in line["spoken_words"]] == ["twenty", "five"]


def test_a_recording_is_whole_after_every_chunk(tmp_path: Path) -> None:
    path = tmp_path / "saved.wav"
    with WavWriter(path) as recorder:
        assert soundfile.info(path).frames == 0
        recorder.write(torch.tensor([0.5, -1.0, 1.0, 3.0, -3.0]))
        values, rate = soundfile.read(path, dtype="int16")
        assert (values.tolist(), rate) == ([16_384, -32_768, 32_767, 32_767, -32_768], 16_000)
        recorder.write(torch.zeros(3))
        assert soundfile.info(path).frames == 8


def test_a_full_disk_is_told_and_a_closed_pipe_ends_it() -> None:
    """A full disk is reported; a closed pipe, as in `spellstream listen | head -1`, ends the command quietly."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with (
        pytest.raises(DataError, match="/dev/full: cannot be written: No space"),
        transcript_file(Path("/dev/full"), "txt") as writer,
    ):
        writer.show(final("one"))
    reading, writing = os.pipe()
    os.close(reading)
    file = os.fdopen(writing, "w")
    with pytest.raises(BrokenPipeError):
        TranscriptWriter(file, "standard output", "txt").show(final("one"))
    with contextlib.suppress(BrokenPipeError):
        file.close()


def test_latency_is_from_when_a_word_was_spoken() -> None:
    now = 100.0
    statistics = LiveStatistics(lambda: now)
    now += 1
    statistics.heard(1.0, 0.0)  # the stream began at 100
    now += 2
    statistics.heard(1.0, 0.0)  # a second late: the recogniser was busy
    now = 103.5
    statistics.show(Partial(words("one", "two")[:1], (), 2.0))  # spoken until 0.5
    assert statistics.recent_latency_seconds == pytest.approx(3.0, abs=0.01)
    statistics.show(final("one", "two"))  # "two" until 1.5
    assert statistics.latency_seconds == pytest.approx(2.5, abs=0.01)
    now = 107.0
    statistics.heard(1.0, 4.0)  # four seconds were dropped before this
    now = 108.0
    statistics.show(final("three", start=2.0))  # until 2.5, which was at 106.5
    assert statistics.recent_latency_seconds == pytest.approx(2.0, abs=0.01)
    assert statistics.summary(0.3, 4.0) == (
        "3.0 s heard, 3 words, median latency 2.00 s, 0.100 s of computing per second of audio, 4.0 s dropped"
    )


def test_audio_faster_than_real_time_has_no_latency() -> None:
    """A file read faster than real time has no latency. A real run is too slow for this on a busy machine."""
    now = 100.0
    statistics = LiveStatistics(lambda: now)
    now += 1
    statistics.heard(10.0, 0.0)
    statistics.show(final("one", "two"))
    assert statistics.latency_seconds is None
    assert statistics.summary(1.0, 0.0) == (
        "10.0 s heard, 2 words, 0.100 s of computing per second of audio, nothing dropped"
    )


def test_the_view_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system="standard", legacy_windows=False)
    source, statistics = Replay(torch.full((CHUNK_SAMPLES,), 0.1)), LiveStatistics()
    source.lost = 1.5
    list(source)
    with LiveView(console, source, statistics) as view:
        view.show(Partial(words("sure"), words("maybe", start=1), 2.0))
        view._live.refresh()
        assert "sure \x1b[2mmaybe\x1b[0m" in screen.getvalue()
        assert "-20 dB · 1.5 s dropped" in screen.getvalue()
        view.show(Partial(words("sure"), words("maybe", start=1), 2.0, "Sure — maybe"))
        view._live.refresh()
        assert "Sure — \x1b[2mmaybe\x1b[0m" in screen.getvalue()
        view.show(final("sure", "indeed"))
        print("a line", file=sys.stderr)
    assert "\nsure indeed\n" in screen.getvalue().replace("\x1b[2K", "").replace("\x1b[1A", "").replace("\r", "\n")
