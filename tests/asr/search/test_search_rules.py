"""Ends of a search and weights of its scores: rules with rigged decoders, and each scorer alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from asr.config import SearchConfig
from asr.errors import ConfigError
from asr.model.attention import Memory
from asr.model.las import Encoded, Model
from asr.search import beam_search, search
from asr.search.hypothesis import Repeats, token_limits
from asr.search.scorers import CoverageScorer, LengthScorer, LmScorer, View
from asr.text.tokenizer import EOS, SOS
from tests.support.tiny_model import tiny_lm, tiny_model

Follow = dict[int, dict[int, float]]


class Rigged(nn.Module):
    """A decoder whose logits depend on the last token alone, by a table `(V, V)` for each utterance."""

    def __init__(self, model: Model, tables: Tensor) -> None:
        super().__init__()
        self.inner, self.tables = model.decoder, tables
        self.prepare, self.initial_state = model.decoder.prepare, model.decoder.initial_state

    def step(self, tokens: Tensor, state: object, memory: Memory) -> tuple[Tensor, object]:
        rows = memory.spread(memory.values[:, 0, 0].long(), len(tokens))
        return self.tables[rows, tokens], state

    def logits(self, readout: Tensor) -> Tensor:
        return readout


def rigged(*follow: Follow) -> tuple[Model, Encoded]:
    """A model with these probabilities of the next token after each token, and 4 s per utterance."""
    model = tiny_model()
    tables = torch.full((len(follow), 20, 20), -30.0)
    for table, pairs in zip(tables, follow, strict=True):
        for last, nexts in pairs.items():
            for token, probability in nexts.items():
                table[last, token] = math.log(probability)
    model.decoder = Rigged(model, tables)  # type: ignore[assignment]
    encoder_out = torch.randn(len(follow), 100, model.config.encoder.output_size)
    encoder_out[:, 0, 0] = torch.arange(len(follow))
    return model, Encoded(encoder_out, torch.full((len(follow),), 100))


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_decoder_that_repeats_itself_is_stopped(beam_size: int) -> None:
    """Stuck attention repeats a phrase forever: the search stops soon after the allowed number of repeats."""
    model, encoded = rigged({SOS: {5: 0.99}, 5: {6: 0.99}, 6: {7: 0.99}, 7: {5: 0.99}})
    config = SearchConfig(beam_size=beam_size, ctc_weight=0.0, max_repeats=3)
    (found,) = search(model, encoded, config)
    tokens, (limit,) = found[0].tokens, token_limits(encoded.encoder_out_lengths, 0.04, config.max_tokens_per_second)
    assert tokens[:6] == [5, 6, 7, 5, 6, 7]
    assert len(tokens) <= 3 * (config.max_repeats + 1) < limit


def test_a_phrase_may_be_said_as_often_as_allowed() -> None:
    """With `max_repeats` of four, a phrase may occur four times; five are a loop."""
    for times in (4, 5):
        repeats, looping = Repeats.start(1, torch.device("cpu")), []
        for token in [9, *[5, 6] * times]:
            repeats, now = repeats.add(torch.tensor([token]), 4)
            looping.append(bool(now))
        assert any(looping) == (times == 5)
        assert looping.index(True) == 10 if times == 5 else True


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_decoder_that_never_ends_is_cut_at_the_limit(beam_size: int) -> None:
    """A search that never ends is cut at `max_tokens_per_second`, and returns its best hypothesis."""
    cycle = range(4, 20)  # too long a phrase to count as a loop
    model, encoded = rigged({SOS: {4: 0.9}, **{t: {4 + (t - 3) % len(cycle): 0.9} for t in cycle}})
    config = SearchConfig(beam_size=beam_size, ctc_weight=0.0, max_tokens_per_second=10)
    (found,) = search(model, encoded, config)
    (limit,) = token_limits(encoded.encoder_out_lengths, 0.04, 10).tolist()
    assert limit == pytest.approx(4.0 * 10, abs=5)
    assert found[0].tokens == [*cycle, *cycle, *cycle][:limit]


def test_no_end_while_going_on_is_much_likelier() -> None:
    """An eos of 2 % is accepted only with the threshold off, although the longer hypothesis has the lower score."""
    words = {SOS: {5: 0.98, EOS: 0.02}, 5: {6: 0.05, 7: 0.05, 8: 0.05}, 6: {EOS: 0.1}, 7: {EOS: 0.1}, 8: {EOS: 0.1}}
    for last in (5, 6, 7, 8):  # the rest of the probability goes to a token without return
        words[last][9] = 1 - sum(words[last].values())
    words[9] = {10: 0.3, 11: 0.3, EOS: 0.001, 12: 0.399}
    for last in (10, 11, 12):
        words[last] = {EOS: 0.01, 13: 0.5, 14: 0.49}
    model, encoded = rigged(words)
    free = SearchConfig(beam_size=4, ctc_weight=0.0, eos_threshold=0.0)
    assert beam_search(model, encoded, free)[0][0].tokens == []
    bound = dataclasses.replace(free, eos_threshold=1.5)
    assert beam_search(model, encoded, bound)[0][0].tokens != []


def test_an_end_among_the_likeliest_passes_the_threshold() -> None:
    """An eos about as likely as the best other token passes the threshold."""
    model, encoded = rigged({SOS: {5: 1.0}, 5: {6: 0.5, EOS: 0.45, 7: 0.05}, 6: {7: 0.6, EOS: 0.4}, 7: {EOS: 1.0}})
    found = beam_search(model, encoded, SearchConfig(beam_size=4, ctc_weight=0.0, eos_threshold=1.5))
    assert found[0][0].tokens == [5]
    assert found[0][0].score == pytest.approx(math.log(0.45), abs=1e-3)


def test_a_bonus_for_length_lengthens() -> None:
    """With a length bonus, the same rigged decoder gives a longer text."""
    model, encoded = rigged({SOS: {5: 1.0}, 5: {6: 0.5, EOS: 0.45, 7: 0.05}, 6: {7: 0.6, EOS: 0.4}, 7: {EOS: 1.0}})
    config = SearchConfig(beam_size=4, ctc_weight=0.0, length_bonus=1.0)
    (found,) = beam_search(model, encoded, config)
    assert found[0].tokens == [5, 6, 7]
    assert found[0].score == pytest.approx(math.log(0.5 * 0.6) + 3, abs=1e-3)


def test_an_utterance_that_is_done_stays_as_it_is() -> None:
    """A hypothesis far behind a finished one cannot catch up by bonuses while longer utterances are decoded.

    Otherwise the result would depend on the number of steps of the longest utterance in the batch.
    """
    chain = {t: {t + 1: 1.0} for t in range(5, 18)} | {18: {EOS: 1.0}}
    quick, slow = {SOS: {EOS: 0.99, 5: 1e-4}, **chain}, {SOS: {5: 1.0}, **chain}
    config = SearchConfig(beam_size=4, ctc_weight=0.0, length_bonus=1.0)
    first, second = beam_search(*rigged(quick, slow), config)
    assert first[0].tokens == []
    assert len(second[0].tokens) == 14
    first, _ = beam_search(*rigged(quick, slow), dataclasses.replace(config, length_bonus=3.0))
    assert len(first[0].tokens) == 14  # a hypothesis that can catch up soon is still extended


def test_coverage_counts_attention_beyond_the_threshold() -> None:
    """The sum over steps is the penalty of the whole: attention above the threshold, summed over frames."""
    scorer = CoverageScorer(0.5, 6, torch.device("cpu"))
    alignments = torch.rand(4, 2, 6).softmax(-1) * 2
    state, added = scorer.initial_state(torch.tensor([0, 1])), torch.zeros(2)
    for alignment in alignments:
        kept = state.clone()
        scores, after = scorer.score(View(torch.zeros(2), torch.zeros(2, 9), alignment), state)
        assert torch.equal(state, kept)
        state, added = after, added + scores[:, 0]
    expected = -(alignments.sum(0) - 0.5).clamp(min=0).sum(-1)
    torch.testing.assert_close(added, expected)
    assert (expected < 0).all()
    torch.testing.assert_close(scorer.select(state, torch.tensor([1, 1])), state[[1, 1]])


def test_mean_coverage_counts_at_every_token_what_there_is_so_far() -> None:
    """Mean coverage: at each token, attention above the threshold divided by the number of tokens so far."""
    scorer = CoverageScorer(0.2, 6, torch.device("cpu"), mean=True)
    alignments = torch.rand(4, 2, 6).softmax(-1)
    state = scorer.initial_state(torch.tensor([0, 1]))
    for step, alignment in enumerate(alignments):
        scores, state = scorer.score(View(torch.zeros(2), torch.zeros(2, 9), alignment), state)
        beyond = (alignments[: step + 1].sum(0) - 0.2).clamp(min=0).sum(-1)
        torch.testing.assert_close(scores[:, 0], -beyond / (step + 1))


def test_scores_per_token_let_a_longer_text_win() -> None:
    """With scores per token, a short text with a higher sum loses to a longer one with likelier tokens."""
    words = {SOS: {EOS: 0.2, 5: 0.8}, 5: {6: 0.6, EOS: 0.4}, 6: {EOS: 0.5, 7: 0.5}, 7: {EOS: 1.0}}
    model, encoded = rigged(words)
    config = SearchConfig(beam_size=4, ctc_weight=0.0, eos_threshold=0.0)
    assert beam_search(model, encoded, config)[0][0].tokens == [5]
    (found,) = beam_search(model, encoded, dataclasses.replace(config, length_normalisation=True))
    assert found[0].tokens == [5, 6, 7]
    assert found[0].score == pytest.approx(math.log(0.8 * 0.6 * 0.5) / 4, abs=1e-3)


def test_temperatures_flatten_the_scores_of_the_decoder_and_of_the_language_model() -> None:
    """Probabilities are raised to 1 / temperature and normalised again."""
    lm, last = tiny_lm(), torch.tensor([4, 5])
    view = View(last, torch.zeros(2, 20), torch.zeros(2, 4))
    scorer = LmScorer(lm, temperature=2.0)
    scores, _ = scorer.score(view, scorer.initial_state(torch.tensor([0, 1])))
    plain, _ = lm.step(last, lm.initial_state(2))
    torch.testing.assert_close(scores, (plain / 2).log_softmax(-1))

    model, encoded = rigged({SOS: {5: 0.8, 6: 0.2}, 5: {EOS: 1.0}, 6: {EOS: 1.0}})
    for beam_size in (1, 2):
        config = SearchConfig(beam_size=beam_size, ctc_weight=0.0, eos_threshold=0.0, temperature=2.0)
        (found,) = search(model, encoded, config)[0][:1]
        assert found.token_scores[0] == pytest.approx(math.log(2 / 3), abs=1e-3)


def test_length_counts_every_token_but_the_end() -> None:
    scores, _ = LengthScorer().score(View(torch.zeros(2), torch.zeros(2, 9), torch.zeros(2, 4)), None)
    assert scores.expand(2, 9)[:, EOS].tolist() == [0, 0]
    assert scores.sum() == 8


@torch.inference_mode()
def test_the_lm_scores_what_it_would_say_next() -> None:
    """The LM's states follow the hypotheses: rows that swap places swap scores."""
    lm = tiny_lm()
    scorer = LmScorer(lm)
    state = scorer.initial_state(torch.tensor([0, 1]))
    _, state = scorer.score(View(torch.tensor([5, 6]), torch.empty(2, 20), torch.empty(2, 1)), state)
    view = View(torch.tensor([7, 7]), torch.empty(2, 20), torch.empty(2, 1))
    straight, _ = scorer.score(view, state)
    swapped, _ = scorer.score(view, scorer.select(state, torch.tensor([1, 0])))
    torch.testing.assert_close(swapped, straight.flip(0))
    assert not torch.allclose(straight[0], straight[1])


def test_a_language_model_of_another_vocabulary_is_refused() -> None:
    model = tiny_model()
    encoded = Encoded(torch.randn(1, 9, model.config.encoder.output_size), torch.tensor([9]))
    with pytest.raises(ConfigError, match=r"lm\.vocab_size is 9: it must be the model's, 20"):
        beam_search(model, encoded, SearchConfig(lm_weight=0.5), tiny_lm(9))
