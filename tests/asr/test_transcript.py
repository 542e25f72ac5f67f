"""The Python API of transcripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import asr
from asr.output.formats import FORMATS, render
from asr.output.subtitles import SubtitleShape
from asr.transcript import Segment, Transcript, Word

WORDS = (Word("hello", 0.5, 0.9, 0.8), Word("there", 1.0, 1.5, 0.9))
TRANSCRIPT = Transcript("talk.wav", 2.0, (Segment("hello there", 0.5, 1.5, -1.0, WORDS),))


def test_plain_values_and_back() -> None:
    assert Transcript.from_dict(json.loads(json.dumps(TRANSCRIPT.to_dict()))) == TRANSCRIPT


SPOKEN = (Word("in", 0.5, 0.6, 0.8), Word("twenty", 0.6, 0.9, 0.7), Word("five", 0.9, 1.2, 0.9))
WRITTEN = Segment(
    "In 25",
    0.5,
    1.5,
    -1.0,
    (Word("In", 0.5, 0.6, 0.8), Word("25", 0.6, 1.2, 0.7)),
    spoken_text="in twenty five",
    spoken_words=SPOKEN,
)


def test_written_text_keeps_what_was_recognised() -> None:
    transcript = Transcript("talk.wav", 3.0, (WRITTEN, *TRANSCRIPT.segments))
    assert (transcript.text, transcript.spoken) == ("In 25 hello there", "in twenty five hello there")
    spoken = transcript.as_spoken()
    assert spoken.segments == (Segment("in twenty five", 0.5, 1.5, -1.0, SPOKEN), *TRANSCRIPT.segments)
    assert spoken.as_spoken() == spoken
    assert [word.start_seconds for word in WRITTEN.shifted(1.0).spoken_words] == [1.5, 1.6, 1.9]


def test_written_text_as_plain_values_and_back() -> None:
    transcript = Transcript("talk.wav", 3.0, (WRITTEN, *TRANSCRIPT.segments))
    values = json.loads(json.dumps(transcript.to_dict()))
    assert values["spoken"] == "in twenty five hello there"
    assert values["segments"][0]["spoken"] == "in twenty five"
    assert "spoken" not in values["segments"][1]
    assert Transcript.from_dict(values) == transcript


def test_values_without_a_spoken_form_are_read() -> None:
    values = TRANSCRIPT.to_dict()
    assert "spoken" not in values
    values["segments"][0]["spoken"] = None  # as a Parquet row has it
    assert Transcript.from_dict(values) == TRANSCRIPT


@pytest.mark.parametrize(
    ("spoken", "message"),
    [
        ({"spoken": 3, "spoken_words": []}, "spoken: wrong type int"),
        ({"spoken": "a"}, "'spoken_words' is missing"),
        ({"spoken": "a", "spoken_words": [{}]}, r"spoken_words\[0\]: 'text' is missing"),
    ],
)
def test_broken_spoken_forms_are_named(spoken: dict[str, object], message: str) -> None:
    values = TRANSCRIPT.to_dict()
    values["segments"][0].update(spoken)
    with pytest.raises(asr.SpellstreamError, match=message):
        Transcript.from_dict(values)


def test_subtitles_of_a_written_word_with_a_space() -> None:
    words = (Word("At", 0.0, 0.2, 1.0), Word("3:30 p.m.", 0.2, 1.0, 1.0), Word("yes —", 1.5, 2.0, 1.0))
    shown = Transcript("", 2.0, (Segment("At 3:30 p.m. yes —", 0.0, 2.0, 0.0, words),)).to_srt(
        SubtitleShape(max_words=3)
    )
    assert "00:00:00,000 --> 00:00:01,000\nAt 3:30 p.m.\n" in shown
    assert "00:00:01,500 --> 00:00:02,000\nyes —\n" in shown


def test_subtitles() -> None:
    assert TRANSCRIPT.to_srt() == "1\n00:00:00,500 --> 00:00:01,500\nhello there\n"
    assert TRANSCRIPT.to_vtt(SubtitleShape(max_line_width=5)).endswith("\nhello\nthere\n")


@pytest.mark.parametrize("name", FORMATS)
def test_save_goes_by_the_extension(tmp_path: Path, name: str) -> None:
    TRANSCRIPT.save(tmp_path / f"talk.{name.upper()}")
    assert (tmp_path / f"talk.{name.upper()}").read_text() == render(TRANSCRIPT, name)


def test_save_to_an_unknown_extension(tmp_path: Path) -> None:
    with pytest.raises(asr.SpellstreamError, match=r"talk\.doc: expected a name that ends in \.txt, \.json"):
        TRANSCRIPT.save(str(tmp_path / "talk.doc"))
    assert not list(tmp_path.iterdir())
