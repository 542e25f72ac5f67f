"""Hotwords in a hypothesis: replacement of words, and independence of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.las import Encoded, Model
from asr.search import Earlier, Hypothesis, Spotter, Trace, beam_search, hotwords, place_hotwords, search
from asr.search.beams import Prefix
from asr.text.tokenizer import BLANK, Tokenizer
from asr.writing.hotwords import Hotwords
from tests.support.tiny_model import sounds, tiny_lm, tiny_model
from tests.support.traces import trace_of

TOKENIZER = Tokenizer.train(["abba cab's", "back a sack", "scab"], 13, "char")
BY_CTC = SearchConfig(beam_size=4, ctc_weight=1.0, hotword_weight=0.2, hotword_margin=2.0)


def spotter(phrases: str) -> Spotter:
    return Spotter.build(Hotwords.parse(phrases), TOKENIZER)


def said(text: str) -> tuple[Model, Encoded]:
    """A model whose CTC head is nearly certain of a text, each token for two frames with a blank after it."""
    tokens = [t for token in TOKENIZER.encode(text) for t in (token, token, BLANK)]
    certain = torch.full((len(tokens), len(TOKENIZER)), 0.02)
    certain[range(len(tokens)), tokens] = 1.0
    model = tiny_model(vocab_size=len(TOKENIZER))
    log_probs = certain.log().log_softmax(-1)[None]
    model.ctc_log_probs = lambda encoder_out: log_probs  # type: ignore[method-assign]
    return model, Encoded(torch.zeros(1, len(tokens), model.config.encoder.output_size), torch.tensor([len(tokens)]))


def placed(audio: str, text: str, phrases: str, config: SearchConfig = BY_CTC) -> str:
    """A text after insertion of the phrases by CTC scores alone."""
    model, encoded = said(audio)
    tokens = TOKENIZER.encode(text)
    found = [[Hypothesis(tokens, -1.0, [-0.1] * len(tokens))]]
    trace = trace_of(model, encoded, config, None, [tokens])
    ((after, *_),) = place_hotwords(model, encoded, found, trace, [spotter(phrases)], config)
    assert len(after.token_scores) == len(after.tokens)
    assert (after.score > -1.0) == (after.tokens != tokens)
    return TOKENIZER.decode(after.tokens)


@pytest.mark.parametrize(
    ("audio", "text", "phrases", "expected"),
    [
        ("abba sack cab", "abba back cab", "sack", "abba sack cab"),
        ("abba sack cab", "abba back cab", "scab", "abba back cab"),  # it was not said
        ("abba sack cab", "abba sa ck cab", "sack", "abba sack cab"),
        ("abba sack cab", "abbasack cab", "abba sack", "abba sack cab"),
        ("abba sack cab", "abba back cab", "abba back, sack cab", "abba sack cab"),
        ("sack abba sack", "back abba back", "sack", "sack abba sack"),
        ("abba sack's cab", "abba back's cab", "sack", "abba sack's cab"),
        ("abba sack cab", "abba bak cab", "sack, back", "abba sack cab"),
    ],
)
def test_a_phrase_takes_the_place_of_the_words_where_it_was_said(
    audio: str, text: str, phrases: str, expected: str
) -> None:
    assert placed(audio, text, phrases) == expected


@pytest.mark.parametrize("text", ["sack abba sack", "abba", "back"])
def test_no_weight_repeats_what_was_recognised(text: str) -> None:
    config = replace(BY_CTC, hotword_weight=10.0)
    assert placed(text, text, "sack:5, abba:5, back:5", config) == text


def test_a_phrase_of_the_hypothesis_gives_way_only_to_one_that_fits_better() -> None:
    config = replace(BY_CTC, hotword_weight=0.5)
    assert placed("a sack", "a scab", "back", config) == "a back"  # the weight is too large
    assert placed("a sack", "a sack", "back, sack", config) == "a sack"


@torch.inference_mode()
def test_a_phrase_goes_on_from_known_words() -> None:
    model, encoded = said("sack abba")
    tokens = TOKENIZER.encode("back abba")
    decoder = model.decoder.initial_state(model.decoder.prepare(*encoded))
    known = TOKENIZER.encode("abba a")
    prefix = Prefix(torch.tensor(known[-1:]), decoder, torch.tensor([0]), torch.tensor(TOKENIZER.word_starts))
    found = [[Hypothesis(tokens, -1.0, [-0.1] * len(tokens))]]

    trace = trace_of(model, encoded, BY_CTC, None, [tokens], prefix)

    def after(phrases: str, before: list[int]) -> str:
        lists = [spotter(phrases)]
        ((best, *_),) = place_hotwords(
            model, encoded, found, trace, lists, BY_CTC, prefix=prefix, earlier=[Earlier(before)]
        )
        return TOKENIZER.decode(best.tokens)

    assert after("a sack", known) == "sack abba"
    assert after("a sack", known[:-2]) == "back abba"


def test_no_phrase_is_placed_where_words_still_change() -> None:
    model, encoded = said("abba sack")
    tokens = TOKENIZER.encode("abba back")
    trace = trace_of(model, encoded, BY_CTC, None, [tokens])

    def after(unsure_frames: int) -> tuple[str, bool]:
        found, earlier = [[Hypothesis(tokens, -1.0, [-0.1] * len(tokens))]], [Earlier((), unsure_frames)]
        ((best, *_),) = place_hotwords(model, encoded, found, trace, [spotter("sack")], BY_CTC, earlier=earlier)
        return TOKENIZER.decode(best.tokens), trace.hotwords[0].waiting

    frames = encoded.encoder_out.shape[1]
    assert after(0) == ("abba sack", False)
    assert [after(n) for n in (6, frames - 2, frames + 1)] == [("abba back", True)] * 3


def test_places_whose_words_are_the_same_keep_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = said("abba sack cab")

    def after(text: str, answers: Mapping[Any, Any]) -> tuple[list[int], Mapping[Any, Any]]:
        tokens = TOKENIZER.encode(text)
        found, trace = (
            [[Hypothesis(tokens, -1.0, [-0.1] * len(tokens))]],
            trace_of(model, encoded, BY_CTC, None, [tokens]),
        )
        earlier = [Earlier((), 0, answers)]
        ((best, *_),) = place_hotwords(model, encoded, found, trace, [spotter("sack, back")], BY_CTC, earlier=earlier)
        return best.tokens, trace.hotwords[0].scores

    placed, answers = after("abba bak cab", {})
    assert TOKENIZER.decode(placed) == "abba sack cab"
    asked: list[int] = []
    scoring = hotwords.score_detours

    def counted(*args: Any) -> Any:
        asked.append(len(args[-1]))
        return scoring(*args)

    monkeypatch.setattr(hotwords, "score_detours", counted)
    assert after("abba bak cab", answers) == (placed, answers)
    assert not asked
    assert TOKENIZER.decode(after("abba bak scab", answers)[0]) == "abba sack scab"
    assert asked


def test_the_plain_hypothesis_is_still_among_the_n_best() -> None:
    model, encoded = said("a sack")
    found = [[Hypothesis(TOKENIZER.encode(text), -1.0, [0.0] * 9) for text in ("a back", "a cab")]]
    trace = trace_of(model, encoded, BY_CTC, None, [found[0][0].tokens])
    (after,) = place_hotwords(model, encoded, found, trace, [spotter("sack")], replace(BY_CTC, nbest=2))
    assert [TOKENIZER.decode(one.tokens) for one in after] == ["a sack", "a back"]


CONFIG = SearchConfig(beam_size=4, length_bonus=0.3, lm_weight=0.2, hotword_weight=1.5, hotword_margin=3.0)
LISTS = [spotter("abba, sack:3"), None, spotter("cab, back a, scab"), spotter("bb:5"), None, spotter("sack:5")]
LISTS[4] = LISTS[0]


@pytest.mark.parametrize("with_prefix", [False, True])
@torch.inference_mode()
def test_the_size_of_the_batch_never_changes_the_answer_with_lists(with_prefix: bool) -> None:
    """Promise 2, beside streams with other lists or none: equal tokens, scores within 1e-4."""
    model, lm = tiny_model(vocab_size=len(TOKENIZER)), tiny_lm(len(TOKENIZER))
    torch.manual_seed(6)
    batch = model.encode(*sounds(len(LISTS)))

    def run(rows: list[int]) -> list[tuple[list[int], float]]:
        part = Encoded(*(x[rows] for x in batch))
        part = Encoded(part.encoder_out[:, : int(part.encoder_out_lengths.max())], part.encoder_out_lengths)
        prefix = prefix_of(model, part, rows) if with_prefix else None
        earlier = [Earlier(TOKENIZER.encode("back"))] * len(rows) if with_prefix else []
        trace = Trace()
        found = beam_search(model, part, CONFIG, lm, prefix, trace)
        found = place_hotwords(model, part, found, trace, [LISTS[r] for r in rows], CONFIG, lm, prefix, earlier)
        return [(best.tokens, best.score) for best, *_ in found]

    together = run(list(range(len(LISTS))))
    for row, (tokens, score) in enumerate(together):
        ((expected, value),) = run([row])
        assert tokens == expected
        assert score == pytest.approx(value, abs=1e-4)
    assert [t for t, _ in run([3, 1, 0])] == [together[3][0], together[1][0], together[0][0]]
    if not with_prefix:
        plain = beam_search(model, batch, CONFIG, lm)
        assert any(best.tokens != tokens for (best, *_), (tokens, _) in zip(plain, together, strict=True))
        assert search(model, batch, CONFIG, lm, [None] * len(LISTS)) == search(model, batch, CONFIG, lm) == plain
        assert [plain[1][0].tokens] == [together[1][0]]


def prefix_of(model: Model, batch: Encoded, rows: list[int]) -> Prefix:
    decoder = model.decoder.initial_state(model.decoder.prepare(*batch))
    first: Tensor = torch.tensor([row % 3 for row in rows])
    return Prefix(torch.full((len(rows),), 5), decoder, first, torch.tensor(TOKENIZER.word_starts))


def test_greedy_search_refuses_hotwords() -> None:
    model = tiny_model(vocab_size=len(TOKENIZER))
    torch.manual_seed(6)
    batch = model.encode(*sounds(1))
    with pytest.raises(ConfigError, match=r"beam_size is 1: it must be at least 2 with hotwords"):
        search(model, batch, SearchConfig(beam_size=1), hotwords=LISTS[:1])
