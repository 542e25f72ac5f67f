"""The word-time benchmark: compared words, and the synthesisers' boundaries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile

from asr import Word
from recipes.benchmark.synthetic_words import VOICES, SpokenWord, Voice
from recipes.benchmark.word_times import differences, row


def test_only_words_that_both_sides_have_are_compared() -> None:
    reference = [SpokenWord("a", 0.0, 0.1), SpokenWord("dog", 0.2, 0.5), SpokenWord("ran", 0.5, 0.9)]
    words = [Word("the", 0.0, 0.2, 1.0), Word("dog", 0.25, 0.4, 1.0), Word("ran", 0.4, 0.92, 1.0)]
    found = differences(reference, words)
    assert found == [pytest.approx((0.05, 0.1)), pytest.approx((0.1, 0.02))]
    assert row("voice", found).startswith("| voice | 2 | 75 /")


@pytest.mark.slow
@pytest.mark.skipif(
    not all(shutil.which(name) for name in ("festival", "espeak-ng", "flite")), reason="a synthesiser is not installed"
)
@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name.replace(" ", "_"))
def test_a_voice_gives_its_words_in_order_within_its_speech(voice: Voice, tmp_path: Path) -> None:
    wav = tmp_path / "speech.wav"
    words = voice.speak("the old man stood, and watched", wav)
    assert [word.text for word in words] == ["the", "old", "man", "stood", "and", "watched"]
    times = [time for word in words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= soundfile.info(str(wav)).duration + 0.01
    assert words[4].start_seconds > words[3].end_seconds  # the pause at the comma
