"""Transcripts as a program uses them."""

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
