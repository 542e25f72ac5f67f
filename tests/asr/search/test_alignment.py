"""Forced alignment finds the likeliest path, with torchaudio's kernel and with the fallback."""

from __future__ import annotations

import itertools
import logging
import math
import sys
import types
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.search import Hypothesis, alignment
from asr.search.alignment import Sound, align, time_words, viterbi
from asr.text.tokenizer import BLANK, Tokenizer
from tests.support.ctc_paths import VOCAB, collapse, random_log_probs


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget the result of looking for torchaudio, before and after the test."""
    alignment._path_finder.cache_clear()
    yield
    alignment._path_finder.cache_clear()


def likeliest_path(log_probs: Tensor, tokens: list[int]) -> float:
    """The log-probability of the best of all paths that spell `tokens`; minus infinity if none does."""
    frames, vocab = log_probs.shape
    paths = (p for p in itertools.product(range(vocab), repeat=frames) if collapse(list(p)) == tokens)
    return max((sum(float(log_probs[t, k]) for t, k in enumerate(p)) for p in paths), default=-math.inf)


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(1, 2), min_size=1, max_size=4), frames=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_alignment_is_the_likeliest_path(tokens: list[int], frames: int, seed: int) -> None:
    """The spans, with blanks between them, are as likely as the best of all paths; None if there is no path."""
    log_probs = random_log_probs(frames, seed, vocab=3)[0]
    best, spans = likeliest_path(log_probs, tokens), align(log_probs, tokens)
    if spans is None:
        assert best == -math.inf
        return
    path = [BLANK] * frames
    for token, (first, after) in zip(tokens, spans, strict=True):
        path[first:after] = [token] * (after - first)
    assert collapse(path) == tokens
    assert sum(float(log_probs[t, k]) for t, k in enumerate(path)) == pytest.approx(best, abs=1e-4)


def test_spans_lie_where_the_tokens_were_said() -> None:
    path = [0, 0, 3, 3, 0, 1, 0, 1, 1, 2, 0]
    log_probs = torch.full((len(path), VOCAB), -9.0)
    log_probs[range(len(path)), path] = -0.01
    assert align(log_probs, [3, 1, 1, 2]) == [(2, 4), (5, 6), (7, 9), (9, 10)]


def test_too_few_frames_have_no_alignment() -> None:
    log_probs = random_log_probs(3)[0]
    assert align(log_probs, [1, 2, 3]) == [(0, 1), (1, 2), (2, 3)]
    assert align(log_probs, [1, 2, 3, 1]) is None
    assert align(log_probs, [1, 1, 2]) is None  # needs a blank between


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(1, 5), min_size=1, max_size=12), spare=st.integers(0, 60), seed=st.integers(0, 1000))
def test_the_fallback_finds_torchaudios_path(tokens: list[int], spare: int, seed: int) -> None:
    """The fallback finds torchaudio's path, for repeated tokens and any number of spare frames."""
    from torchaudio.functional import forced_align

    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    log_probs = random_log_probs(len(tokens) + repeats + spare, seed, vocab=6)
    expected, _ = forced_align(log_probs, torch.tensor([tokens], dtype=torch.int32), blank=BLANK)
    assert viterbi(log_probs[0], tokens) == expected[0].tolist()


def test_a_torchaudio_that_does_not_load_is_named_once(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If torchaudio does not load, words still get times, and one line names the versions and the remedy.

    With pip, a torchaudio built for another torch installs without complaint; its import then raised OSError in the
    middle of the first transcription.
    """
    log_probs, tokens = random_log_probs(30, seed=2)[0], [1, 2, 2, 3]
    expected = align(log_probs, tokens)
    alignment._path_finder.cache_clear()

    class Broken(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise OSError("Could not load this library: _torchaudio.so")

    monkeypatch.setitem(sys.modules, "torchaudio.functional", Broken("torchaudio.functional"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torchaudio": "2.0.1"}[name])
    with caplog.at_level(logging.WARNING):
        assert [align(log_probs, tokens), align(log_probs, tokens)] == [expected, expected]
    (message,) = caplog.messages
    assert f"torchaudio 2.0.1 cannot be loaded beside torch {torch.__version__}" in message
    assert "remedy: pip install --upgrade --force-reinstall torch torchaudio" in message
    assert "\n" not in message


def test_a_missing_torchaudio_is_named_once(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.delitem(sys.modules, "torchaudio.functional", raising=False)
    assert align(random_log_probs(3)[0], [1, 2, 3]) == [(0, 1), (1, 2), (2, 3)]
    (message,) = caplog.messages
    assert message.startswith(f"torchaudio is not installed beside torch {torch.__version__}")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 2, 2, 0, 0, 3, 1, 1, 0], [2, 3, 1]),
    ],
)
def test_collapse_joins_repeats_and_drops_blanks(path: list[int], text: list[int]) -> None:
    assert collapse(path) == text


# --- Word times


def sound(log_probs: Tensor, decibels: Sequence[float] = (), seconds: float | None = None) -> Sound:
    """Frames of 60 ms, with levels every 10 ms."""
    return Sound(log_probs, decibels, 0.06, 0.01, 0.016, 0.06 * len(log_probs) if seconds is None else seconds)


def level(*parts: tuple[float, float]) -> list[float]:
    """Levels, one per 10 ms, of stretches given as (seconds, dB)."""
    return [decibels for seconds, decibels in parts for _ in range(round(seconds / 0.01))]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["ab ba", "a b"], 20, "char")


def heard(tokenizer: Tokenizer, text: str, at: Sequence[int], frames: int) -> tuple[Hypothesis, Tensor]:
    """A hypothesis, and CTC log-probabilities with its tokens in the frames `at`."""
    tokens = tokenizer.encode(text)
    log_probs = torch.full((frames, len(tokenizer)), -9.0)
    log_probs[:, BLANK] = -1.0
    log_probs[list(at), tokens] = 0.0
    return Hypothesis(tokens, -1.0, [math.log(0.5)] * len(tokens)), log_probs


def test_words_are_read_off_a_hypothesis(tokenizer: Tokenizer) -> None:
    found, log_probs = heard(tokenizer, "ab b", (10, 13, 16, 19, 22), 30)
    words = time_words(tokenizer, found, sound(log_probs), 5, [11 + 3 * i for i in range(5)])
    assert [w.text for w in words] == ["ab", "b"]
    assert [w.tokens for w in words] == [3, 5]
    assert [(w.first_frame, w.last_frame) for w in words] == [(10, 17), (19, 23)]
    assert [w.attention_frame for w in words] == [17, 23]
    assert [w.confidence for w in words] == pytest.approx([0.5, 0.5])
    crowded = time_words(tokenizer, found, sound(log_probs[:8]), 5)
    assert [(w.first_frame, w.last_frame, w.aligned) for w in crowded] == [(5, 6, False), (6, 8, False)]
    assert time_words(tokenizer, Hypothesis([], 0.0, []), sound(log_probs), 30) == []


def test_words_meet_where_there_is_no_pause(tokenizer: Tokenizer) -> None:
    """Without a pause, two words share a boundary; a word ended at its last token, in the middle of its sound."""
    found, log_probs = heard(tokenizer, "a b", (4, 5, 14, 15), 20)
    loud = level((0.2, 0), (0.9, 50), (0.1, 0))
    first, second = time_words(tokenizer, found, sound(log_probs, loud))
    assert (first.first_frame, first.last_frame, second.first_frame) == (4, 6, 14)
    assert first.start_seconds == pytest.approx(0.21, abs=0.017)  # where the level rises
    assert first.end_seconds == second.start_seconds == pytest.approx(0.36 + 0.6 * 0.48)
    assert second.end_seconds == pytest.approx(1.1, abs=0.017)  # where it falls


def test_a_pause_belongs_to_no_word(tokenizer: Tokenizer) -> None:
    found, log_probs = heard(tokenizer, "a b", (4, 5, 24, 25), 30)
    first, second = time_words(tokenizer, found, sound(log_probs, level((0.2, 0), (0.3, 50), (0.8, 10), (0.5, 50))))
    assert first.end_seconds == pytest.approx(0.5, abs=0.017)
    assert second.start_seconds == pytest.approx(1.3, abs=0.017)


def test_a_stop_within_a_word_is_no_pause(tokenizer: Tokenizer) -> None:
    """The closure of a p or t, quiet for less than 80 ms, does not end a word."""
    found, log_probs = heard(tokenizer, "a b", (4, 5, 14, 15), 20)
    stop = level((0.5, 50), (0.07, 0), (0.63, 50))
    first, second = time_words(tokenizer, found, sound(log_probs, stop))
    assert first.end_seconds == second.start_seconds


def test_noise_in_a_long_pause_does_not_stretch_the_words(tokenizer: Tokenizer) -> None:
    """If the level never falls, words still end at most 300 ms from their tokens."""
    found, log_probs = heard(tokenizer, "a b", (4, 5, 54, 55), 60)
    first, second = time_words(tokenizer, found, sound(log_probs, level((3.6, 50))))
    assert (first.end_seconds, second.start_seconds) == pytest.approx((0.36 + 0.3, 54 * 0.06 - 0.3))


@settings(max_examples=60)
@given(
    frames=st.lists(st.integers(0, 39), min_size=4, max_size=4, unique=True).map(sorted),
    decibels=st.lists(st.sampled_from((0.0, 15.0, 50.0)), max_size=300),
    seconds=st.floats(2.35, 2.5),
)
def test_times_are_in_order_and_within_the_sound(frames: list[int], decibels: list[float], seconds: float) -> None:
    """For any levels, of any number, word times are in order and within the audio."""
    tokenizer = Tokenizer.train(["ab ba", "a b"], 20, "char")
    found, log_probs = heard(tokenizer, "a b", frames, 40)
    words = time_words(tokenizer, found, sound(log_probs, [x for x in decibels for _ in range(5)], seconds))
    times = [t for word in words for t in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[1]
    assert times[2] < times[3] <= seconds
    for word in words:
        assert word.start_seconds <= word.first_frame * 0.06 + 1e-6
        assert word.end_seconds >= min(word.last_frame * 0.06, seconds) - 1e-6
