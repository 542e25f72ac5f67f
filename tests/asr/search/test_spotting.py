"""Where hotwords can have been said: scores against a plain search of all spans, and the promises of the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.search import Spotter, spotting
from asr.search.alignment import viterbi
from asr.search.ctc import blank_padding
from asr.search.spotting import Spot
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
    """The best path through any frames that spells tokens, beside the best path of all through these frames."""
    relative, best = log_probs - log_probs.amax(-1, keepdim=True), -math.inf
    for start in range(len(relative)):
        for end in range(start + len(tokens), len(relative) + 1):
            frames = relative[start:end]
            path = viterbi(frames, tokens) if _fits(tokens, end - start) else []
            best = max(best, float(frames[range(len(path)), path].sum()) if path else -math.inf)
    return best


def _fits(tokens: list[int], frames: int) -> bool:
    return frames >= len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def test_a_score_is_that_of_the_best_path_through_any_frames() -> None:
    phrases = ["abba", "ab", "cab", "bb"]
    log_probs = noise(2, 9)
    scores = spotter(", ".join(phrases)).score(log_probs)
    for row, found in zip(log_probs, scores.tolist(), strict=True):
        for phrase, score in zip(phrases, found, strict=True):
            assert score == pytest.approx(best_span(row, TOKENIZER.encode(phrase)), abs=1e-4)


def test_what_was_said_scores_nought_and_nothing_else_does() -> None:
    scores = spotter("cabs, back, a sack, scab").score(spoken("a sack cabs"))
    assert scores[0, [0, 2]].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert max(scores[0, [1, 3]].tolist()) < -2.0


def spots(some: Spotter, log_probs: Tensor, known: str = "", margin: float = 0.2) -> list[Spot]:
    before = [TOKENIZER.encode(known)] if known else []
    return some.spots(log_probs, [log_probs.shape[1]], before, 1.0, margin)[0]


def test_a_spot_is_where_the_phrase_was_said() -> None:
    """Also one that is said twice, the likeliest place first; three frames for each token."""
    log_probs = spoken("back sack back")
    found = spots(spotter("sack, cabs"), log_probs)
    assert [(s.spelling.said, s.first_frame // 3, -(-s.after_last // 3)) for s in found] == [("sack", 5, 10)]
    twice = spots(spotter("back"), log_probs)
    assert sorted((s.first_frame // 3, -(-s.after_last // 3)) for s in twice) == [(0, 5), (10, 15)]
    doubtful = log_probs.clone()
    doubtful[0, :2, TOKENIZER.encode("s")[-1]] = 1.0
    assert spots(spotter("back"), doubtful)[0].first_frame >= 29


def test_the_score_of_a_place_is_that_of_its_path() -> None:
    log_probs, some = noise(1, 12), spotter("abba, bb, cab, scab")
    candidates = [(0, one) for one in some.spellings.values()]
    relative = log_probs - log_probs.amax(-1, keepdim=True)
    for (score, first, after), *_ in spotting.places(relative, candidates):
        assert score in [pytest.approx(x, abs=1e-4) for x in some.score(log_probs)[0].tolist()]
        assert 0 <= first < after <= 12
    for (_, one), ((score, first, after), *_) in zip(candidates, spotting.places(relative, candidates), strict=True):
        assert score == pytest.approx(best_span(log_probs[0, first:after], list(one.tokens)), abs=1e-4)


def test_the_more_a_phrase_is_worth_the_less_likely_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its length and its weight; and of many only the likeliest are taken."""
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
    assert some.begun([]) == spotter("sack, back").begun(TOKENIZER.encode("back")) == []


def test_the_size_of_the_batch_never_changes_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or beside longer utterances, and however the rows are split to bound memory: bit for bit."""
    some, log_probs, lengths = spotter("abba, cab, a sack, scab"), noise(3, 30), torch.tensor([30, 11, 21])
    padded = blank_padding(log_probs, lengths)
    together, places = some.score(padded), some.spots(padded, lengths.tolist(), [], 1.0, 2.0)
    for row, length in enumerate(lengths.tolist()):
        alone = log_probs[row : row + 1, :length]
        assert torch.equal(some.score(alone)[0], together[row])
        assert spots(some, alone, margin=2.0) == places[row] != []
    monkeypatch.setattr(spotting, "_MAX_CELLS", 1)
    assert torch.equal(some.score(padded), together)


def test_what_the_model_cannot_spell_is_named() -> None:
    with pytest.raises(ConfigError, match=r"hotword 'zebra'.* cannot spell 'e', 'r', 'z'"):
        spotter("cab, zebra")


def test_special_tokens_are_in_no_path() -> None:
    assert int(spotter("abba, cab").tokens[1:].min()) > EOS
