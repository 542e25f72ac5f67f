"""Committed words under each policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asr.errors import ConfigError
from asr.search.alignment import TimedWord
from streaming.policy import PolicyConfig, committable, showable

FRAME_MS = 60.0
WORDS = [
    TimedWord(text, i + 1, 10 * i, 10 * i + 8, 0.6 * i, 0.6 * i + 0.5, 1.0, attention_frame=10 * i + 4)
    for i, text in enumerate(("one", "two", "three"))
]


def count(heard_frames: int, kind: str, before: tuple[str, ...] = (), margin_ms: int = 300) -> int:
    config = PolicyConfig(kind, margin_ms)  # type: ignore[arg-type]
    return committable(WORDS, before, heard_frames, FRAME_MS, config)


def test_ctc_commits_what_ends_far_enough_from_the_edge() -> None:
    assert [count(frames, "ctc") for frames in (13, 14, 23, 24)] == [0, 1, 1, 2]  # 300 ms are 5 frames


def test_attention_commits_what_it_has_left() -> None:
    assert [count(frames, "attention") for frames in (9, 10, 19, 20)] == [0, 1, 1, 2]
    stuck = [WORDS[0], replace(WORDS[1], attention_frame=4), WORDS[2]]
    assert committable(stuck, (), 100, FRAME_MS, PolicyConfig("attention")) == 0


def test_agreement_commits_what_was_found_twice() -> None:
    assert count(30, "agreement") == 0
    assert count(30, "agreement", ("one",)) == 1
    assert count(30, "agreement", ("one", "too")) == 1
    assert count(30, "agreement", ("won", "two")) == 0  # no word is committed after an uncommitted one


def test_ctc_commits_earlier_what_was_found_twice() -> None:
    config = PolicyConfig(margin_ms=600, agreement_ms=300)  # ten frames, or five
    found = {
        before: [committable(WORDS, before, frames, FRAME_MS, config) for frames in (13, 14, 18, 19, 24, 29)]
        for before in ((), ("one",), ("one", "two"), ("won", "two"))
    }
    assert found[()] == found["won", "two"] == [0, 0, 0, 1, 1, 2]
    assert found["one",] == [0, 1, 1, 1, 1, 2]
    assert found["one", "two"] == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", ["ctc", "attention"])
def test_doubtful_words_are_committed_later(kind: str) -> None:
    config = PolicyConfig(kind, margin_ms=300, doubt_ms=600)  # type: ignore[arg-type]  # 5 frames, and 10 for doubt
    words = [replace(WORDS[0], confidence=confidence) for confidence in (1.0, 0.5, 0.0)]
    end = 8 if kind == "ctc" else 4
    found = [
        [committable([word, WORDS[1]], (), end + more, FRAME_MS, config) for more in (5, 6, 10, 11, 15, 16)]
        for word in words
    ]
    assert found == [[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]]


def test_doubt_and_agreement_add_up() -> None:
    config = PolicyConfig(margin_ms=300, doubt_ms=600, agreement_ms=420)  # 5, 10 and 7 frames
    doubtful = [replace(WORDS[0], confidence=0.0), *WORDS[1:]]
    assert [committable(doubtful, ("one",), 8 + more, FRAME_MS, config) for more in (8, 9)] == [0, 1]
    assert [committable(WORDS, ("one",), 8 + more, FRAME_MS, config) for more in (0, 1)] == [0, 1]  # never below 0


def test_a_doubtful_word_at_the_edge_is_shown_once_it_was_found_twice() -> None:
    config = PolicyConfig(show_margin_ms=240)
    doubtful = [replace(word, confidence=0.5) for word in WORDS]  # two frames
    assert [showable(doubtful, (), frames, FRAME_MS, config) for frames in (9, 10, 19, 20, 30)] == [0, 1, 1, 2, 3]
    assert showable(doubtful, ("one", "two", "three"), 19, FRAME_MS, config) == 3
    assert showable(doubtful, ("one", "too", "three"), 19, FRAME_MS, config) == 1
    assert showable(doubtful, (), 28, FRAME_MS, PolicyConfig(show_margin_ms=0)) == 3


def test_a_sure_word_at_the_edge_is_shown_at_once() -> None:
    config = PolicyConfig(show_margin_ms=240)
    for confidence in (1.0, 1 - 1e-7):  # rounding of a probability of 1 has no effect
        assert showable([replace(word, confidence=confidence) for word in WORDS], (), 28, FRAME_MS, config) == 3


@pytest.mark.parametrize("kind", ["ctc", "attention", "agreement"])
def test_the_last_word_may_still_grow(kind: str) -> None:
    assert count(1000, kind, ("one", "two", "three"), margin_ms=0) == 2
    assert committable(WORDS[:1], ("one",), 1000, FRAME_MS, PolicyConfig(kind)) == 0  # type: ignore[arg-type]
    assert committable([], (), 1000, FRAME_MS, PolicyConfig(kind)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ctc", "attention", "agreement"])
def test_words_with_too_few_frames_are_not_sure(kind: str) -> None:
    crowded = [replace(word, aligned=False) for word in WORDS]
    assert committable(crowded, ("one", "two", "three"), 50, FRAME_MS, PolicyConfig(kind, 0)) == 0  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"kind is 'ctx'"):
        PolicyConfig("ctx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="margin_ms"):
        PolicyConfig(margin_ms=-1)
    with pytest.raises(ConfigError, match="doubt_ms"):
        PolicyConfig(doubt_ms=-1)
    with pytest.raises(ConfigError, match="agreement_ms"):
        PolicyConfig(agreement_ms=-1)
    with pytest.raises(ConfigError, match="show_margin_ms"):
        PolicyConfig(show_margin_ms=-1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PolicyConfig("ctc", 800, 320), 480),
        (PolicyConfig("ctc", 400, 320), 300),
        (PolicyConfig("ctc", 200, 320), 200),
        (PolicyConfig("attention", 800, 320), 800),
        (PolicyConfig("agreement", 800, 320), 300),
    ],
)
def test_words_are_committed_from_a_distance_on(config: PolicyConfig, expected: int) -> None:
    assert config.earliest_ms(step_ms=300) == expected
