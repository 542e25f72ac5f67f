"""CTC prefix scores equal explicit sums over all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from asr.search.ctc import CtcPrefixes, CtcState
from asr.search.scorers import CtcScorer, View
from tests.support.ctc_paths import collapse, random_log_probs

EOS = 3  # in these tests; CTC itself never gives it
NEVER = -1e9  # anything lower is impossible


def texts(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of every text, summed over all paths of `(T, V)`."""
    frames, vocab = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    values = log_probs.double().exp().tolist()
    for path in itertools.product(range(vocab), repeat=frames):
        text = tuple(collapse(list(path)))
        found[text] = found.get(text, 0.0) + math.prod(values[t][token] for t, token in enumerate(path))
    return found


def begins(found: dict[tuple[int, ...], float], prefix: tuple[int, ...]) -> float:
    return sum(p for text, p in found.items() if text[: len(prefix)] == prefix)


def follow(scorer: CtcPrefixes, prefix: tuple[int, ...], eos: int = EOS) -> tuple[CtcState, Tensor]:
    """The state of a prefix, and its `last` token."""
    state, last = scorer.initial_state(torch.tensor([0])), torch.tensor([eos])
    for token in prefix:
        increments = scorer.step(state, last, torch.tensor([[token]]), eos)
        state = scorer.advance(state, last, torch.tensor([0]), torch.tensor([token]), increments[:, 0])
        last = torch.tensor([token])
    return state, last


def assert_log_close(found: float, probability: float) -> None:
    if probability == 0:
        assert found < NEVER
    else:
        assert found == pytest.approx(math.log(probability), abs=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_prefix_scores_are_the_sum_over_all_paths(frames: int) -> None:
    """For every prefix that fits the frames and some that do not, with repeated tokens and eos."""
    log_probs = random_log_probs(frames, seed=frames, vocab=3)
    found = texts(log_probs[0])
    scorer = CtcPrefixes(torch.nn.functional.pad(log_probs, (0, 1), value=-30.0), torch.tensor([frames]))
    candidates = torch.tensor([[1, 2, EOS]])
    for length in range(frames + 1):
        for prefix in itertools.product((1, 2), repeat=length):
            state, last = follow(scorer, prefix)
            assert_log_close(float(state.score), begins(found, prefix))
            if begins(found, prefix) == 0:
                continue
            increments = scorer.step(state, last, candidates, EOS)
            totals = (state.score + increments[0].double()).tolist()
            assert_log_close(totals[0], begins(found, (*prefix, 1)))
            assert_log_close(totals[1], begins(found, (*prefix, 2)))
            assert_log_close(totals[2], found.get(prefix, 0.0))


def test_a_prefix_goes_on_or_ends() -> None:
    """A prefix's probability is that of its end plus those of its extensions by each token."""
    log_probs = random_log_probs(6, seed=3)
    scorer = CtcPrefixes(torch.cat([log_probs, torch.full((1, 6, 1), -40.0)], dim=-1), torch.tensor([6]))
    for prefix in ((), (1,), (1, 1), (2, 3, 2), (3, 3, 3)):
        state, last = follow(scorer, prefix, eos=4)
        increments = scorer.step(state, last, torch.tensor([[1, 2, 3, 4]]), 4)
        assert float(increments.double().logsumexp(-1)) == pytest.approx(0.0, abs=1e-5)


def test_the_whole_text_has_the_probability_that_ctc_loss_gives() -> None:
    """A finished hypothesis of a long utterance has the score of torch's CTC loss."""
    log_probs = random_log_probs(300, seed=8, vocab=20)
    tokens = [5, 5, 7, 19, 4, 4, 4, 11, 6, 12, 5]
    scorer = CtcPrefixes(log_probs, torch.tensor([300]))
    state, last = follow(scorer, tuple(tokens))
    increments = scorer.step(state, last, torch.tensor([[EOS]]), EOS)
    loss = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1).double(),
        torch.tensor([tokens]),
        torch.tensor([300]),
        torch.tensor([11]),
        reduction="sum",
    )
    assert float(state.score + increments) == pytest.approx(-float(loss), abs=1e-3)


def test_what_does_not_fit_stays_impossible() -> None:
    """A hypothesis with more tokens than frames stays impossible, with any further token."""
    scorer = CtcPrefixes(random_log_probs(2, seed=1), torch.tensor([2]))
    state, last = follow(scorer, (1, 1))  # a repeated token needs a blank in between, so three frames
    assert float(state.score) < NEVER
    for _ in range(3):
        increments = scorer.step(state, last, torch.tensor([[1, 2, EOS]]), EOS)
        assert increments.isfinite().all()
        assert ((state.score + increments[0].double()) < NEVER).all()
        state = scorer.advance(state, last, torch.tensor([0]), torch.tensor([2]), increments[:, 1])
        last = torch.tensor([2])


def test_a_penalty_for_what_does_not_fit_leaves_the_other_scores_their_weight() -> None:
    """CTC's -1e10 swallowed all other scores in float32, so that hypotheses longer than their audio had no order.

    Which of them was taken then depended on the batch.
    """
    scorer, nothing = CtcScorer(CtcPrefixes(random_log_probs(2, seed=1), torch.tensor([2]))), torch.zeros(1, 5)
    state, totals, one = scorer.initial_state(torch.tensor([0])), [torch.zeros(1)], torch.tensor([0])
    for last, token in ((EOS, 1), (1, 1), (1, 2), (2, 1)):  # a repeated token needs a blank in between, so three frames
        view = View(torch.tensor([last]), nothing, nothing)
        added, step = scorer.score(view, torch.tensor([[token]]), state)
        state = scorer.select(step, one, one)
        totals.append(totals[-1] + added[0])
    assert float(state.score) < NEVER
    _, fits, *too_long = map(float, totals)
    assert too_long == pytest.approx([fits - 1e4] * 3, abs=0.01)  # only the first that does not fit is punished


def test_a_row_is_the_same_alone_and_in_a_padded_batch() -> None:
    """Promise 2: for rows of different lengths with two hypotheses each, and any padding."""
    lengths, beams = [7, 3, 1], 2
    log_probs = random_log_probs(7, seed=4, rows=3)
    scorer = CtcPrefixes(log_probs, torch.tensor(lengths))
    candidates = torch.tensor([[1, 2, EOS]] * 6)
    state, last = scorer.initial_state(torch.arange(3).repeat_interleave(beams)), torch.full((6,), EOS)
    together = []
    parents, chosen = torch.arange(6), torch.tensor([0, 1] * 3)
    for _ in range(3):
        increments = scorer.step(state, last, candidates, EOS)
        together.append((state.score[:, None] + increments.double()).clone())
        tokens = candidates[parents, chosen]
        state = scorer.advance(state, last, parents, tokens, increments[parents, chosen])
        last = tokens
    for row, length in enumerate(lengths):
        alone = CtcPrefixes(log_probs[row : row + 1, :length], torch.tensor([length]))
        for beam, token in enumerate((1, 2)):
            for step, totals in enumerate(together):
                prefix = (token,) * step
                own, own_last = follow(alone, prefix)
                increments = alone.step(own, own_last, candidates[:1], EOS)
                expected = (own.score[:, None] + increments.double())[0]
                found = totals[row * beams + beam]
                torch.testing.assert_close(found.clamp(min=NEVER), expected.clamp(min=NEVER), rtol=0, atol=1e-4)


def test_states_are_reordered_with_their_hypotheses() -> None:
    """After `advance` with parents in any order, or `select` of any rows, scores continue from the right states."""
    scorer = CtcPrefixes(random_log_probs(5, seed=6), torch.tensor([5]))
    start, last = scorer.initial_state(torch.tensor([0, 0])), torch.tensor([EOS, EOS])
    increments = scorer.step(start, last, torch.tensor([[1, 2], [1, 2]]), EOS)
    parents, tokens = torch.tensor([1, 0]), torch.tensor([2, 1])
    state = scorer.advance(start, last, parents, tokens, increments[parents, tokens - 1])
    swapped = state.select(torch.tensor([1, 0]))
    for rows, tokens in ((state, (2, 1)), (swapped, (1, 2))):
        found = scorer.step(rows, torch.tensor(tokens), torch.tensor([[1, 2, EOS]] * 2), EOS)
        for row, token in enumerate(tokens):
            alone = CtcPrefixes(random_log_probs(5, seed=6), torch.tensor([5]))
            own, last = follow(alone, (token,))
            expected = alone.step(own, last, torch.tensor([[1, 2, EOS]]), EOS)
            torch.testing.assert_close(found[row], expected[0], rtol=0, atol=1e-5)
