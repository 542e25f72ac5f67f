"""Hotword spotting: scores against an exhaustive search over all spans."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.search import Spotter, spotting
from asr.search.alignment import viterbi
from asr.search.spotting import Spot, best_paths, places, relative
from asr.text.tokenizer import BLANK, EOS, Tokenizer
from asr.writing.hotwords import Hotwords

TOKENIZER = Tokenizer.train(["abba cabs", "back a sack", "scab"], 12, "char")


def spotter(phrases: str) -> Spotter:
    return Spotter.build(Hotwords.parse(phrases), TOKENIZER)


def noise(rows: int, frames: int) -> Tensor:
    torch.manual_seed(3)
    return (2 * torch.randn(rows, frames, len(TOKENIZER))).log_softmax(-1)


def spoken(text: str) -> Tensor:
    """`(1, T, V)`: a text, each token for two frames with a blank after it, nearly certain."""
    tokens = [t for token in TOKENIZER.encode(text) for t in (token, token, BLANK)]
    certain = torch.full((len(tokens), len(TOKENIZER)), 0.01)
    certain[range(len(tokens)), tokens] = 1.0
    return certain.log().log_softmax(-1)[None]


def best_span(log_probs: Tensor, tokens: list[int]) -> float:
    """The score of the best path that spells the tokens in any span, relative to the best of all paths through it."""
    relative, best = log_probs - log_probs.amax(-1, keepdim=True), -math.inf
    for start in range(len(relative)):
        for end in range(start + len(tokens), len(relative) + 1):
            frames = relative[start:end]
            path = viterbi(frames, tokens) if _fits(tokens, end - start) else []
            best = max(best, float(frames[range(len(path)), path].sum()) if path else -math.inf)
    return best


def _fits(tokens: list[int], frames: int) -> bool:
    return frames >= len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def scores(some: Spotter, log_probs: Tensor, scale: float = 100.0) -> dict[str, float]:
    """Scores of the spellings that are not pruned."""
    rows, paths = best_paths(relative(log_probs), some.table, scale)
    said = [some.table.spellings[row].said for row in rows.tolist()]
    return dict(zip(said, paths.best.tolist(), strict=True))


def test_a_score_is_that_of_the_best_path_through_any_frames() -> None:
    phrases = ["abba", "ab", "cab", "bb", "a"]
    for row in noise(2, 9):
        found = scores(spotter(", ".join(phrases)), row)
        assert list(found) == phrases
        for phrase, score in found.items():
            assert score == pytest.approx(best_span(row, TOKENIZER.encode(phrase)), abs=1e-4)


@pytest.mark.parametrize("scale", [0.1, 0.2, 0.4])
def test_only_spellings_below_the_least_score_are_given_up(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    some = spotter("abba, a, cab, bb, a sack, scab, back, cabs, a back")
    for row in noise(3, 12):
        every = scores(some, row)
        found = scores(some, row, scale)
        assert found == {said: score for said, score in every.items() if score + scale * some.spellings[said].worth > 0}
        with monkeypatch.context() as patch:
            patch.setattr(spotting, "_MAX_CELLS", 1)
            assert scores(some, row, scale) == found


def test_what_was_said_scores_nought_and_nothing_else_does() -> None:
    found = scores(spotter("cabs, back, a sack, scab"), spoken("a sack cabs")[0])
    assert [found["cabs"], found["a sack"]] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert max(found["back"], found["scab"]) < -2.0


def spots(some: Spotter, log_probs: Tensor, known: str = "", margin: float = 0.2) -> list[Spot]:
    return some.spots(log_probs[0], TOKENIZER.encode(known) if known else [], 1.0, margin)


def test_a_spot_is_where_the_phrase_was_said() -> None:
    """A phrase is found at three frames per token; one that occurs twice, likeliest place first."""
    log_probs = spoken("back sack back")
    found = spots(spotter("sack, cabs"), log_probs)
    assert [(s.spelling.said, s.first_frame // 3, -(-s.after_last // 3)) for s in found] == [("sack", 5, 10)]
    twice = spots(spotter("back"), log_probs)
    assert sorted((s.first_frame // 3, -(-s.after_last // 3)) for s in twice) == [(0, 5), (10, 15)]
    doubtful = log_probs.clone()
    doubtful[0, :2, TOKENIZER.encode("s")[-1]] = 1.0
    assert spots(spotter("back"), doubtful)[0].first_frame >= 29


def test_the_score_of_a_place_is_that_of_its_path() -> None:
    (log_probs,), some = noise(1, 12), spotter("abba, bb, cab, scab")
    rows, paths = best_paths(relative(log_probs), some.table, 100.0)
    for row, found in zip(rows.tolist(), places(paths), strict=True):
        score, first, after = found[0]
        tokens = list(some.table.spellings[row].tokens)
        assert 0 <= first < after <= 12
        assert score == pytest.approx(best_span(log_probs[first:after], tokens), abs=1e-4)
        assert score == pytest.approx(best_span(log_probs, tokens), abs=1e-4)


def test_the_more_a_phrase_is_worth_the_less_likely_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold falls with a phrase's length and weight; of many phrases, only the likeliest are kept."""
    log_probs = spoken("back a back")
    said = [s.spelling.said for s in spots(spotter("sack, back:0.1, aback:5"), log_probs, margin=0.5)]
    assert sorted(set(said)) == ["aback", "back"]
    assert not spots(spotter("sack"), log_probs, margin=0.5)
    assert spots(spotter("sack:3"), log_probs, margin=0.5)
    monkeypatch.setattr(spotting, "_FRAMES_A_SPOT", log_probs.shape[1])
    assert len(spots(spotter("sack, back:0.1, aback:5"), log_probs, margin=0.5)) == 1


def test_a_phrase_goes_on_from_known_words() -> None:
    some, frames = spotter("back a sack, scab"), spoken("sack")
    (found,) = spots(some, frames, "abba back a")
    assert found.spelling.said == "sack"
    assert found.spelling.continues
    assert spots(some, frames, "abba back") == spots(some, frames) == []
    assert spots(some, frames[:, :0]) == some.begun([]) == spotter("sack, back").begun(TOKENIZER.encode("back")) == []


def test_what_the_model_cannot_spell_is_named() -> None:
    with pytest.raises(ConfigError, match=r"hotword 'zebra'.* cannot spell 'e', 'r', 'z'"):
        spotter("cab, zebra")


def test_special_tokens_are_in_no_path() -> None:
    assert all(min(one.tokens) > EOS for one in spotter("abba, cab").table.spellings)


def test_a_common_word_in_a_list_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.train(["the cat and the hat that the bat sat at"] * 9, 20, "bpe")
    assert len(tokenizer.encode("the")) == 1
    spotting._warn_of_common.cache_clear()
    for _ in range(2):
        Spotter.build(Hotwords.parse("The, bathe, the hat"), tokenizer)
    assert [record.getMessage() for record in caplog.records] == [
        "hotword 'the': so common a word is recognised without a list, and may now replace others"
    ]
