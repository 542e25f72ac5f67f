"""Which hotwords can have been said: scores against a plain search of all spans, and the promises of the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.las import Encoded
from asr.search import Automaton, Spotter, narrow, spotting
from asr.search.alignment import viterbi
from asr.search.ctc import blank_padding, from_frame
from asr.text.tokenizer import BLANK, EOS, Tokenizer
from asr.writing.hotwords import Hotwords
from tests.support.tiny_model import sounds, tiny_model

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
            assert score == pytest.approx(best_span(row, TOKENIZER.encode(phrase)) / len(phrase), abs=1e-4)


def test_what_was_said_scores_nought_and_nothing_else_does() -> None:
    scores = spotter("cabs, back, a sack, scab").score(spoken("a sack cabs"))
    assert scores[0, [0, 2]].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert max(scores[0, [1, 3]].tolist()) < -0.5


def test_a_phrase_that_the_audio_breaks_off_in_counts_once_its_first_word_was_said() -> None:
    broken = spoken("back a")
    assert spotter("back a sack").score(broken).item() == pytest.approx(0.0, abs=1e-5)
    assert spotter("back scab").score(broken).item() < -0.2  # its first word was said, but not at the end
    assert spotter("acab").score(broken).item() < -0.5  # one word, which was not said in full


def test_a_phrase_goes_on_from_known_words() -> None:
    """It is found by what is said of it after them, with the frames of the known words left out."""
    some, frames = spotter("back a sack, scab"), spoken("sack")
    known = TOKENIZER.encode("abba back a")
    assert some.score(frames, [some.begun(known)])[0, 0].item() == pytest.approx(0.0, abs=1e-5)
    assert some.score(frames, [some.begun(known[:-2])])[0, 0].item() < -0.3  # "abba back"
    assert some.begun([]) == spotter("sack, back").begun(known) == []

    log_probs, first = torch.cat([noise(1, 7), frames], dim=1), torch.tensor([7])
    after = blank_padding(from_frame(log_probs, first), log_probs.shape[1] - first)
    assert some.score(after, [some.begun(known)]).tolist() == some.score(frames, [some.begun(known)]).tolist()


def test_the_size_of_the_batch_never_changes_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or beside longer utterances, and however the rows are split to bound memory: bit for bit."""
    some, log_probs, lengths = spotter("abba, cab, a sack, scab"), noise(3, 30), torch.tensor([30, 11, 21])
    together = some.score(blank_padding(log_probs, lengths))
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(some.score(log_probs[row : row + 1, :length])[0], together[row])
    monkeypatch.setattr(spotting, "_MAX_CELLS", 1)
    assert torch.equal(some.score(blank_padding(log_probs, lengths)), together)


def test_a_phrase_earns_its_weight_by_its_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """From all of it to a third, and then to nothing; one with a weight of two may be twice as unlikely."""
    scores = torch.tensor([0.0, -0.75, -1.01, -1.5, -2.01])
    found = spotter("abba, back, bac, cab:2, scab:2").automaton(scores, 1.0)
    expected = Automaton.build(Hotwords.parse("abba, back:0.5, cab:1"), TOKENIZER)
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))
    monkeypatch.setattr(spotting, "_MOST_PHRASES", 1)
    best = spotter("abba, back, bac, cab:2, scab:2").automaton(scores, 1.0)
    assert best is not None
    assert best.walk(0, TOKENIZER.encode("abb")) > 0 == best.walk(0, TOKENIZER.encode("ba"))
    assert spotter("abba, back, bac, cab, scab").automaton(scores - 1.1, 1.0) is None


def tensors(automaton: Automaton) -> list[Tensor]:
    return [value for value in vars(automaton).values() if isinstance(value, Tensor)]


def test_each_utterance_gets_what_it_would_get_alone() -> None:
    model = tiny_model(vocab_size=len(TOKENIZER))
    encoded, config = model.encode(*sounds(4)), SearchConfig(beam_size=4, hotword_margin=5.0)
    some = [spotter("abba, cab, scab, back, sack"), None, spotter("a sack:5"), None]
    some[3] = some[0]
    found = narrow(model, encoded, some, config)
    assert found[1] is None
    assert found[0] is not None
    for row, one in enumerate(some):
        length = int(encoded.encoder_out_lengths[row])
        alone = Encoded(encoded.encoder_out[row : row + 1, :length], encoded.encoder_out_lengths[row : row + 1])
        (same,) = narrow(model, alone, [one], config)
        assert (same is None) == (found[row] is None)
        for a, b in zip(tensors(same) if same else [], tensors(found[row]) if found[row] else [], strict=True):
            assert torch.allclose(a.float(), b.float(), atol=1e-4)
    assert narrow(model, encoded, [], config) == []
    assert narrow(model, encoded, some, SearchConfig(hotword_weight=0.0)) == [None] * 4
    with pytest.raises(ConfigError, match=r"beam_size is 1: it must be at least 2 with hotwords"):
        narrow(model, encoded, some, SearchConfig(beam_size=1))


def test_what_the_model_cannot_spell_is_named() -> None:
    with pytest.raises(ConfigError, match=r"hotword 'zebra'.* cannot spell 'e', 'r', 'z'"):
        spotter("cab, zebra")


def test_special_tokens_are_in_no_path() -> None:
    assert int(spotter("abba, cab").tokens[1:].min()) > EOS
