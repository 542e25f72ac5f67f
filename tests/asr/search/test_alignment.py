"""Forced alignment: the likeliest of all paths, by torchaudio's kernel and by the plain fallback."""

from __future__ import annotations

import itertools
import logging
import math
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.search import alignment
from asr.search.alignment import align, viterbi
from asr.text.tokenizer import BLANK
from tests.support.ctc_paths import VOCAB, collapse, random_log_probs


@pytest.fixture
def fresh() -> Iterator[None]:
    """Look for torchaudio anew, before and after the test."""
    alignment._path_finder.cache_clear()
    yield
    alignment._path_finder.cache_clear()


def likeliest_path(log_probs: Tensor, tokens: list[int]) -> float:
    """The log-probability of the best of all paths that spell `tokens`; minus infinity where none does."""
    frames, vocab = log_probs.shape
    paths = (p for p in itertools.product(range(vocab), repeat=frames) if collapse(list(p)) == tokens)
    return max((sum(float(log_probs[t, k]) for t, k in enumerate(p)) for p in paths), default=-math.inf)


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(1, 2), min_size=1, max_size=4), frames=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_alignment_is_the_likeliest_path(tokens: list[int], frames: int, seed: int) -> None:
    """The spans, with blanks around them, are as likely as the best of all paths; None where there is no path."""
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
    """Repeated tokens, and from no spare frame to many."""
    from torchaudio.functional import forced_align

    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    log_probs = random_log_probs(len(tokens) + repeats + spare, seed, vocab=6)
    expected, _ = forced_align(log_probs, torch.tensor([tokens], dtype=torch.int32), blank=BLANK)
    assert viterbi(log_probs[0], tokens) == expected[0].tolist()


def test_a_torchaudio_that_does_not_load_is_named_once(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Words are still timed, and one line names versions and remedy.

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
