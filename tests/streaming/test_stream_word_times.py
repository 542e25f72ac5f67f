"""Word times of a stream against those of the whole file, with the shipped model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import asr
from asr.audio import SAMPLE_RATE, load
from asr.transcript import Word
from streaming.engine import Engine
from tests.support.streams import finals, keeps_its_word, listen

MEDIAN_SECONDS, WORST_SECONDS = 0.02, 0.15


def boundaries(words: Sequence[Word]) -> list[tuple[float, float]]:
    """End of each word and start of the next within runs of equal words; neighbours of other words move with them."""
    return [(word.end_seconds, following.start_seconds) for word, following in pairwise(words)]


@pytest.mark.parametrize("silence_seconds", [0.0, 2.0])
def test_a_streams_word_times_are_those_of_the_file(repository_root: Path, silence_seconds: float) -> None:
    """Word times of a stream equal those of the whole file, and a committed word keeps its times."""
    recogniser = asr.load(device="cpu")
    speech = load(repository_root / "recipes" / "sample.flac")
    whole = recogniser.transcribe(speech, sample_rate=SAMPLE_RATE, style="spoken").words

    silence = torch.zeros(round(silence_seconds * SAMPLE_RATE))
    events = listen(Engine(recogniser), torch.cat([silence, speech]).split(5_120))

    assert keeps_its_word(events) > 5
    streamed = [word for final in finals(events) for word in final.segment.as_spoken().words]
    same = SequenceMatcher(None, [w.text for w in whole], [w.text for w in streamed]).get_matching_blocks()
    differences = [
        abs(time - silence_seconds - expected)
        for i, j, size in same
        for ours, theirs in zip(boundaries(streamed[j : j + size]), boundaries(whole[i : i + size]), strict=True)
        for time, expected in zip(ours, theirs, strict=True)
    ]
    assert len(differences) >= 16
    assert statistics.median(differences) <= MEDIAN_SECONDS
    assert max(differences) <= WORST_SECONDS
