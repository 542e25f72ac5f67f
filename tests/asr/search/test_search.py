"""The search: equal results in any batch, the best hypothesis if the beam is wide enough, and always an end."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from asr.config import SearchConfig
from asr.model.fast import fast_paths
from asr.model.las import Encoded, Model
from asr.model.lm import LanguageModel
from asr.search import Hypothesis, Prefix, beam_search, greedy, search
from asr.text.tokenizer import EOS, SOS
from tests.support.tiny_model import sounds, tiny_lm, tiny_model

ATTENTION_ONLY = SearchConfig(beam_size=4, ctc_weight=0.0)
CONFIGS = {
    "greedy": SearchConfig(beam_size=1),
    "attention": ATTENTION_ONLY,
    "joint": SearchConfig(beam_size=4, ctc_weight=0.3),
    "ctc": SearchConfig(beam_size=4, ctc_weight=1.0),
    "coverage": dataclasses.replace(ATTENTION_ONLY, coverage_penalty=0.5, coverage_threshold=0.6),
    "length": dataclasses.replace(ATTENTION_ONLY, length_bonus=0.4),
    "lm": SearchConfig(beam_size=4, ctc_weight=0.3, lm_weight=0.6),
    "margin": SearchConfig(beam_size=8, nbest=3, beam_margin=2.0),
    "no end threshold": SearchConfig(beam_size=4, nbest=4, eos_threshold=0.0),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_size_of_the_batch_never_changes_the_answer(name: str) -> None:
    """Promise 2: sixteen recordings give the same tokens and scores in batches of 16, 3 and 1."""
    model, lm, config = tiny_model(), tiny_lm(), CONFIGS[name]
    waveform, samples = sounds(16)

    def decode(rows: slice) -> list[list[Hypothesis]]:
        longest = int(samples[rows].max())  # so that each batch has its own padding
        return search(model, model.encode(waveform[rows, :longest], samples[rows]), config, lm)

    together = decode(slice(0, 16))
    assert len({tuple(found[0].tokens) for found in together}) > 4  # otherwise the test would prove nothing
    for size in (1, 3):
        apart = [found for i in range(0, 16, size) for found in decode(slice(i, i + size))]
        for one, all_ in zip(apart, together, strict=True):
            assert [h.tokens for h in one] == [h.tokens for h in all_]
            for a, b in zip(one, all_, strict=True):
                # Relative too: float32 has steps of 2.4e-4 at -3,000, the score of a hypothesis that does not fit.
                assert a.score == pytest.approx(b.score, rel=1e-6, abs=1e-4)
                assert a.token_scores == pytest.approx(b.token_scores, rel=1e-6, abs=1e-4)


def counted(model: Model) -> list[int]:
    """Record the number of rows of each decoder step."""
    rows: list[int] = []
    step = model.decoder.step

    def counting(tokens: Tensor, *others: Any) -> Any:
        rows.append(len(tokens))
        return step(tokens, *others)

    model.decoder.step = counting  # type: ignore[method-assign]
    return rows


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_computing_live_hypotheses_alone_changes_nothing(name: str) -> None:
    """A CPU skips empty slots of the beam, which a GPU computes to keep shapes constant; results are equal."""
    model, lm, config = tiny_model(), tiny_lm(), CONFIGS[name]
    encoded, rows = model.encode(*sounds(12)), counted(model)
    live = search(model, encoded, config, lm)
    computed = sum(rows)
    with fast_paths(False):
        whole = search(model, encoded, config, lm)
    assert computed < 0.9 * (sum(rows) - computed) or config.beam_size == 1
    for one, other in zip(live, whole, strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in other]
        for a, b in zip(one, other, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4)


def test_hypotheses_far_behind_are_dropped() -> None:
    """The narrowest margin keeps only the best hypothesis of an utterance; a wide one changes nothing."""
    model = tiny_model()
    encoded, rows = model.encode(*sounds(6)), counted(model)

    def tokens(margin: float) -> list[list[int]]:
        config = dataclasses.replace(ATTENTION_ONLY, beam_margin=margin)
        return [best.tokens for best, *_ in search(model, encoded, config)]

    without = tokens(0.0)
    assert max(rows) > 6
    rows.clear()
    assert tokens(1e-6) != without
    assert max(rows) == 6
    assert tokens(100.0) == without


def test_with_scores_per_token_hypotheses_far_behind_a_finished_one_are_dropped() -> None:
    """Otherwise the search would run to the length limit, with fewer finished hypotheses than the beam."""
    model = tiny_model()
    with torch.no_grad():
        model.decoder.to_logits.bias[EOS] += 2.0
    encoded, rows = model.encode(*sounds(6)), counted(model)

    def found(margin: float) -> tuple[list[list[int]], int]:
        rows.clear()
        config = dataclasses.replace(ATTENTION_ONLY, beam_margin=margin, length_normalisation=True, eos_threshold=0.0)
        return [best.tokens for best, *_ in search(model, encoded, config)], len(rows)

    without, steps = found(0.0)
    assert found(100.0) == (without, steps)
    assert found(2.0)[1] < steps


class Trial(NamedTuple):
    """A setting in which every possible hypothesis can be enumerated and scored."""

    model: Model
    lm: LanguageModel
    encoded: Encoded
    longest: int  # tokens that a hypothesis may have


VOCAB = 7  # three tokens beside the special four


@pytest.fixture(scope="module")
def trial() -> Trial:
    model, lm = tiny_model(VOCAB, sharpness=3.0), tiny_lm(VOCAB)
    with torch.no_grad():
        model.decoder.to_logits.bias[EOS] -= 1.5  # so that the best hypotheses are not empty
    torch.manual_seed(5)
    lengths = torch.tensor([12, 9])
    encoder_out = torch.randn(2, 12, model.config.encoder.output_size)
    return Trial(model, lm, Encoded(encoder_out, lengths), longest=5)


def loops(tokens: tuple[int, ...], most: int) -> bool:
    """Whether the tokens end in a phrase repeated more than `most` times in a row."""
    sizes = range(1, len(tokens) // (most + 1) + 1)
    return any(tokens[-size * (most + 1) :] == tokens[-size:] * (most + 1) for size in sizes)


def exhaustive(trial: Trial, row: int, config: SearchConfig) -> list[tuple[float, list[int]]]:
    """Scores of all hypotheses that can end in time, best first, from teacher forcing and torch's own CTC loss."""
    model, frames = trial.model, int(trial.encoded.encoder_out_lengths[row])
    encoder_out = trial.encoded.encoder_out[row : row + 1, :frames]
    ctc_log_probs = model.ctc_log_probs(encoder_out).transpose(0, 1)
    scored = []
    for length in range(trial.longest):
        for tokens in itertools.product(range(EOS + 1, VOCAB), repeat=length):
            if any(loops(tokens[:i], config.max_repeats) for i in range(1, length + 1)):
                continue
            inputs, targets = torch.tensor([[SOS, *tokens]]), torch.tensor([*tokens, EOS])
            logits, alignments = model.decoder(inputs, encoder_out, torch.tensor([frames]))
            log_probs = logits[0].log_softmax(-1)
            heeded = config.eos_threshold > 0 and config.ctc_weight < 1  # CTC alone does not use the decoder
            if heeded and log_probs[-1, EOS] < config.eos_threshold * log_probs[-1, EOS + 1 :].max():
                continue
            score = (1 - config.ctc_weight) * log_probs.gather(1, targets[:, None]).sum()
            loss = nn.functional.ctc_loss(
                ctc_log_probs, torch.tensor([tokens]), (frames,), (length,), reduction="sum", zero_infinity=False
            )
            score = score - config.ctc_weight * loss if config.ctc_weight else score
            lm_logits, _ = trial.lm(inputs, trial.lm.initial_state(1))
            score += config.lm_weight * lm_logits[0].log_softmax(-1).gather(1, targets[:, None]).sum()
            score += config.length_bonus * length
            attended = alignments[0].mean(1).sum(0)
            score -= config.coverage_penalty * (attended - config.coverage_threshold).clamp(min=0).sum()
            scored.append((float(score), list(tokens)))
    return sorted(scored, reverse=True)


WIDE = SearchConfig(
    beam_size=243, nbest=5, candidates=VOCAB, ctc_weight=0.0, eos_threshold=0.0, max_tokens_per_second=0.1
)


@pytest.mark.parametrize(
    "config",
    [
        WIDE,
        dataclasses.replace(WIDE, ctc_weight=0.4),
        dataclasses.replace(WIDE, ctc_weight=1.0, candidates=1, eos_threshold=1.5),
        dataclasses.replace(WIDE, ctc_weight=0.3, lm_weight=0.5, length_bonus=0.7),
        dataclasses.replace(WIDE, ctc_weight=0.3, coverage_penalty=1.0, coverage_threshold=0.3),
        dataclasses.replace(WIDE, ctc_weight=0.3, eos_threshold=1.5),
        dataclasses.replace(WIDE, ctc_weight=0.3, max_repeats=1),
    ],
    ids=["attention", "joint", "ctc", "lm and length", "coverage", "end threshold", "loops"],
)
@torch.inference_mode()
def test_a_beam_that_leaves_nothing_out_finds_the_best_there_is(trial: Trial, config: SearchConfig) -> None:
    """With a beam that holds every hypothesis, the n-best and their scores equal the exhaustive ones."""
    for row, found in enumerate(beam_search(trial.model, trial.encoded, config, trial.lm)):
        expected = exhaustive(trial, row, config)[: config.nbest]
        assert [h.tokens for h in found] == [tokens for _, tokens in expected]
        assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-3)


@torch.inference_mode()
def test_each_weight_matters_in_the_exhaustive_trial(trial: Trial) -> None:
    """The cases above give different results, so a missing scorer would be noticed."""
    settings = [
        WIDE,
        dataclasses.replace(WIDE, ctc_weight=0.4),
        dataclasses.replace(WIDE, lm_weight=0.5),
        dataclasses.replace(WIDE, length_bonus=0.7),
        dataclasses.replace(WIDE, coverage_penalty=1.0, coverage_threshold=0.3),
    ]
    found = [beam_search(trial.model, trial.encoded, s, trial.lm)[0] for s in settings]
    assert len({tuple(round(h.score, 3) for h in nbest) for nbest in found}) == len(settings)


@torch.inference_mode()
def test_ctc_alone_looks_at_every_token() -> None:
    """With decoder weight 0, CTC scores every token rather than the decoder's candidates."""
    model, (waveform, samples) = tiny_model(), sounds(6)
    encoded = model.encode(waveform, samples)
    few = dataclasses.replace(CONFIGS["ctc"], candidates=1)
    found = beam_search(model, encoded, few)
    assert found == beam_search(model, encoded, dataclasses.replace(few, candidates=16))
    original = model.decoder.to_logits.weight.clone()
    with torch.no_grad():
        model.decoder.to_logits.weight.copy_(torch.randn_like(original))
    assert [h[0].tokens for h in beam_search(model, encoded, few)] == [h[0].tokens for h in found]


@torch.inference_mode()
def test_the_n_best_are_sorted_distinct_and_begin_with_the_best() -> None:
    """Asking for alternatives never changes the first answer."""
    model, (waveform, samples) = tiny_model(), sounds(4)
    encoded = model.encode(waveform, samples)
    several = dataclasses.replace(CONFIGS["joint"], beam_size=8, nbest=8, eos_threshold=0.0)
    for many, one in zip(
        beam_search(model, encoded, several),
        beam_search(model, encoded, dataclasses.replace(several, nbest=1)),
        strict=True,
    ):
        scores = [h.score for h in many]
        assert len(many) > 1
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(h.tokens) for h in many}) == len(many)
        assert (many[0].tokens, many[0].score) == (one[0].tokens, pytest.approx(one[0].score, abs=1e-5))


@pytest.mark.parametrize("scorer", ["location", "additive", "dot", "scaled_dot", "multi_head"])
@torch.inference_mode()
def test_a_beam_of_one_is_greedy(scorer: str) -> None:
    """By attention alone, a beam of 1 gives the tokens and scores of greedy search."""
    model, (waveform, samples) = tiny_model(scorer=scorer), sounds(6)
    encoded = model.encode(waveform, samples)
    config = SearchConfig(beam_size=1, ctc_weight=0.0, eos_threshold=0.0, max_repeats=1000)
    for one, beam in zip(greedy(model, encoded, config), beam_search(model, encoded, config), strict=True):
        assert beam[0].tokens == one.tokens
        assert beam[0].score == pytest.approx(one.score, abs=1e-4)
        assert beam[0].token_scores == pytest.approx(one.token_scores, abs=1e-4)


@torch.inference_mode()
def test_searching_twice_gives_the_same_and_changes_nothing() -> None:
    """Neither the search nor a decoder step changes its inputs."""
    model, lm, (waveform, samples) = tiny_model(), tiny_lm(), sounds(3)
    encoded = model.encode(waveform, samples)
    before = encoded.encoder_out.clone()
    config = dataclasses.replace(CONFIGS["lm"], coverage_penalty=0.2, length_bonus=0.1)
    assert beam_search(model, encoded, config, lm) == beam_search(model, encoded, config, lm)
    assert torch.equal(encoded.encoder_out, before)
    memory = model.decoder.prepare(*encoded)
    state = model.decoder.initial_state(memory)
    _, state = model.decoder.step(torch.tensor([SOS, SOS, SOS]), state, memory)
    kept = [x.clone() for x in state]
    first, _ = model.decoder.step(torch.tensor([5, 6, 7]), state, memory)
    again, _ = model.decoder.step(torch.tensor([5, 6, 7]), state, memory)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_an_utterance_without_a_frame_is_silence_and_disturbs_nobody(name: str) -> None:
    """An utterance without a frame gives no tokens and score 0, and does not change its neighbours."""
    model, lm, (waveform, samples) = tiny_model(), tiny_lm(), sounds(3)
    alone = search(model, model.encode(waveform, samples), CONFIGS[name], lm)
    samples[1] = 100
    with_it = search(model, model.encode(waveform, samples), CONFIGS[name], lm)
    assert with_it[1] == [Hypothesis([], 0.0, [])]
    assert [with_it[0][0].tokens, with_it[2][0].tokens] == [alone[0][0].tokens, alone[2][0].tokens]
    none = search(model, model.encode(waveform[:, :100], torch.tensor([100, 50, 0])), CONFIGS[name], lm)
    assert none == [[Hypothesis([], 0.0, [])]] * 3


@torch.inference_mode()
def test_where_nothing_is_left_after_a_prefix_nothing_is_found() -> None:
    """With no frame left after the prefix, a frame of the known words, or of padding, was decoded."""
    model, (waveform, samples) = tiny_model(), sounds(2)
    samples[0] = samples[1] // 2
    encoded = model.encode(waveform, samples)
    state = model.decoder.initial_state(model.decoder.prepare(*encoded))
    starts = torch.ones(20, dtype=torch.bool)
    first_frame = torch.stack([encoded.encoder_out_lengths[0], torch.tensor(0)])
    found = beam_search(
        model, encoded, SearchConfig(), None, Prefix(torch.tensor([5, SOS]), state, first_frame, starts)
    )
    assert found[0] == [Hypothesis([], 0.0, [])]
    assert found[1][0].tokens == beam_search(model, encoded, SearchConfig())[1][0].tokens


@torch.inference_mode()
def test_searching_on_from_a_prefix_takes_the_path_of_the_whole_search() -> None:
    """By attention alone with a beam of 1, a search from a prefix equals the whole search."""
    model, (waveform, samples) = tiny_model(), sounds(8)
    encoded = model.encode(waveform, samples)
    config, starts = SearchConfig(beam_size=1, ctc_weight=0.0, max_repeats=99), torch.ones(20, dtype=torch.bool)
    starts[8] = False
    whole = [found[0].tokens for found in beam_search(model, encoded, config)]
    memory, checked = model.decoder.prepare(*encoded), 0
    for count in range(1, 8):
        state = model.decoder.initial_state(memory)
        for tokens in zip(*([SOS, *w, *[SOS] * count][:count] for w in whole), strict=True):
            _, state = model.decoder.step(torch.tensor(tokens), state, memory)
        rows = [i for i, w in enumerate(whole) if len(w) > count]
        last = torch.tensor([whole[i][count - 1] for i in rows])
        prefix = Prefix(last, state.select(torch.tensor(rows)), torch.zeros(len(rows), dtype=torch.long), starts)
        rest = [
            found[0].tokens for found in beam_search(model, Encoded(*(x[rows] for x in encoded)), config, None, prefix)
        ]
        for i, found in zip(rows, rest, strict=True):
            if whole[i][count] == 8:
                assert found[:1] != [8]  # it cannot go on in the middle of a word
            else:
                assert found[: len(whole[i]) - count] == whole[i][count:]
                checked += 1
    assert checked > 10
