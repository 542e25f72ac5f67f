"""Word times of a stream, with the shipped model, against those of the whole file."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch

import asr
from asr.audio import SAMPLE_RATE, load
from streaming.engine import Engine
from tests.support.streams import finals, keeps_its_word, listen

# A word beside one that the stream recognises differently has another boundary with it; all others hardly move.
MEDIAN_SECONDS, WORST_SECONDS = 0.02, 0.15


@pytest.mark.parametrize("silence_seconds", [0.0, 2.0])
def test_a_streams_word_times_are_those_of_the_file(repository_root: Path, silence_seconds: float) -> None:
    """Captions of a stream and subtitles of its recording share one clock, and a committed word keeps its times."""
    recogniser = asr.load(device="cpu")
    speech = load(repository_root / "recipes" / "sample.flac")
    whole = recogniser.transcribe(speech, sample_rate=SAMPLE_RATE, style="spoken").words

    silence = torch.zeros(round(silence_seconds * SAMPLE_RATE))
    events = listen(Engine(recogniser), torch.cat([silence, speech]).split(5_120))

    assert keeps_its_word(events) > 5
    streamed = {
        word.text: word for final in finals(events) for word in final.segment.as_spoken().words if word.text != "the"
    }
    differences = [
        abs(time - silence_seconds - expected)
        for word in whole
        if (match := streamed.get(word.text))
        for time, expected in ((match.start_seconds, word.start_seconds), (match.end_seconds, word.end_seconds))
    ]
    assert len(differences) >= 16
    assert statistics.median(differences) <= MEDIAN_SECONDS
    assert max(differences) <= WORST_SECONDS
