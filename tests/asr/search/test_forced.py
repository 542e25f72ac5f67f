"""Scores of hypotheses that differ from a known one in one place, against full teacher-forced scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.search import Trace, beam_search, forced
from asr.search.beams import Prefix
from asr.search.forced import Detour, Scored, score_detours
from asr.steps import finish
from asr.text.tokenizer import EOS, SOS
from tests.support.tiny_model import sounds, tiny_lm, tiny_model
from tests.support.traces import trace_of

CONFIG = SearchConfig(beam_size=4, lm_weight=0.4, length_bonus=0.3, coverage_penalty=0.2, coverage_threshold=0.5)
KNOWN = {0: [5, 9, 9, 12, 6, 4], 2: [7, 8], 3: [11, 4, 17, 6, 6]}
DETOURS = [
    Detour(0, 1, 3, [6, 15, 4], -math.inf),
    Detour(0, 5, 6, [19], -math.inf),
    Detour(2, 0, 2, [4, 4, 4, 4], -math.inf),
    Detour(3, 2, 2, [13], -math.inf),
]


@torch.inference_mode()
def batch() -> Encoded:
    torch.manual_seed(6)
    return tiny_model().encode(*sounds(4))


@torch.inference_mode()
def whole(row: int, tokens: list[int], first: int = SOS) -> float:
    """The search's score of a text without CTC, token by token."""
    model, lm, (encoder_out, lengths) = tiny_model(), tiny_lm(), batch()
    length = int(lengths[row])
    memory = model.decoder.prepare(encoder_out[row : row + 1, :length], lengths[row : row + 1])
    state, lm_state, last, score = model.decoder.initial_state(memory), lm.initial_state(1), first, 0.0
    attention = torch.zeros(length)
    for token in [*tokens, EOS]:
        readout, state = model.decoder.step(torch.tensor([last]), state, memory)
        by_lm, lm_state = lm.step(torch.tensor([last]), lm_state)
        score += (1 - CONFIG.ctc_weight) * float(model.decoder.logits(readout).log_softmax(-1)[0, token])
        score += CONFIG.lm_weight * float(by_lm[0, token])
        attention += state.alignment[0, 0]
        last = token
    beyond = float((attention - CONFIG.coverage_threshold).clamp(min=0).sum())
    return score + CONFIG.length_bonus * len(tokens) - CONFIG.coverage_penalty * beyond


def scored_detours(
    model: Model, encoded: Encoded, prefix: Prefix | None, known: dict[int, list[int]], detours: list[Detour]
) -> list[Scored | None]:
    texts = [known.get(row, []) for row in range(len(encoded.encoder_out))]
    trace = trace_of(model, encoded, CONFIG, tiny_lm(), texts, prefix)
    return finish(score_detours(model, encoded, CONFIG, tiny_lm(), trace, known, detours))


def changed(detour: Detour) -> list[int]:
    known = KNOWN[detour.row]
    return [*known[: detour.start], *detour.tokens, *known[detour.end :]]


@pytest.mark.parametrize("with_prefix", [False, True])
@torch.inference_mode()
def test_a_gain_is_the_difference_of_two_whole_scores(with_prefix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forced, "AFTER", 99)
    model, prefix, first = tiny_model(), None, SOS
    if with_prefix:
        decoder, first = model.decoder.initial_state(model.decoder.prepare(*batch())), 8
        starts = torch.ones(20, dtype=torch.bool)
        prefix = Prefix(torch.full((4,), first), decoder, torch.zeros(4, dtype=torch.long), starts)
    found = scored_detours(model, batch(), prefix, KNOWN, DETOURS)
    for detour, scored in zip(DETOURS, found, strict=True):
        assert scored is not None
        expected = whole(detour.row, changed(detour), first) - whole(detour.row, KNOWN[detour.row], first)
        assert scored.gain == pytest.approx(expected, abs=1e-4)
        assert len(scored.token_scores) == len(detour.tokens)


@torch.inference_mode()
def test_the_size_of_the_batch_never_changes_a_score() -> None:
    model, (encoder_out, lengths) = tiny_model(), batch()
    together = scored_detours(model, batch(), None, KNOWN, DETOURS)
    for detour, scored in zip(DETOURS, together, strict=True):
        row, length = detour.row, int(lengths[detour.row])
        one = Encoded(encoder_out[row : row + 1, :length], lengths[row : row + 1])
        (alone,) = scored_detours(model, one, None, {0: KNOWN[row]}, [detour._replace(row=0)])
        assert scored is not None
        assert alone is not None
        assert alone.gain == pytest.approx(scored.gain, abs=1e-4)
        assert alone.token_scores == pytest.approx(scored.token_scores, abs=1e-4)


@torch.inference_mode()
def test_what_falls_behind_is_dropped_and_nothing_else_changes() -> None:
    plain = scored_detours(tiny_model(), batch(), None, KNOWN, DETOURS)
    some = [DETOURS[0], DETOURS[1], DETOURS[2]._replace(least=1e3), DETOURS[3]]
    found = scored_detours(tiny_model(), batch(), None, KNOWN, some)
    assert found[2] is None
    for i in (0, 1, 3):
        assert found[i] is not None
        assert found[i].gain == pytest.approx(plain[i].gain, abs=1e-5)  # type: ignore[union-attr]
    assert scored_detours(tiny_model(), batch(), None, {}, []) == []


@torch.inference_mode()
def test_detours_that_begin_alike_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Detour(0, 1, 3, [6, 15, 4], -math.inf), Detour(0, 1, 2, [6, 15, 4], -math.inf)
    alone = [scored_detours(tiny_model(), batch(), None, KNOWN, [one])[0] for one in (first, second)]
    rows, step = [], forced._Forced.step

    def counted(self: Any, state: Any, owners: Tensor) -> Any:
        rows.append(len(owners))
        return step(self, state, owners)

    monkeypatch.setattr(forced._Forced, "step", counted)
    together = scored_detours(tiny_model(), batch(), None, KNOWN, [first, second])
    assert rows == [1, 1, 1, 2, 2]  # the first tokens come from the trace; after the third, other words follow
    for one, expected in zip(together, alone, strict=True):
        assert one is not None
        assert expected is not None
        assert one.gain == pytest.approx(expected.gain, abs=1e-4)


def followed(trace: Trace, known: dict[int, list[int]]) -> list[Detour]:
    """Detours from known hypotheses along other tokens that the search tried, and what followed them."""
    detours = []
    for row, tokens in known.items():
        for start, at in enumerate(trace.path(row, tokens).rows[:-1]):
            text: list[int] = []
            following = {t: after for t, after in trace.following(start, at).items() if t != tokens[start]}
            while following and len(text) < 4:
                token, at = next(iter(following.items()))
                text.append(token)
                following = trace.following(start + len(text), at)
            if text:
                detours.append(Detour(row, start, start + 1, text, -math.inf))
    return detours


@torch.inference_mode()
def test_what_the_search_has_followed_is_scored_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that the search already followed are scored without a decoder step, the same as with one."""
    model, trace, rows, step = tiny_model(), Trace(), [], forced._Forced.step
    found = beam_search(model, batch(), CONFIG, tiny_lm(), None, trace)
    known = {row: best.tokens[:-1] for row, (best, *_) in enumerate(found)}
    detours = followed(trace, known)
    assert max(len(detour.tokens) for detour in detours) > 2

    def counted(self: Any, state: Any, owners: Tensor) -> Any:
        rows.append(len(owners))
        return step(self, state, owners)

    monkeypatch.setattr(forced._Forced, "step", counted)
    expected = scored_detours(model, batch(), None, known, detours)
    plain = sum(rows)
    rows.clear()
    scores = finish(score_detours(model, batch(), CONFIG, tiny_lm(), trace, known, detours))
    assert sum(rows) < plain
    for one, other in zip(scores, expected, strict=True):
        assert one is not None
        assert other is not None
        assert one.gain == pytest.approx(other.gain, abs=1e-4)
        assert one.token_scores == pytest.approx(other.token_scores, abs=1e-4)


@torch.inference_mode()
def test_a_detour_that_is_clearly_ahead_is_not_followed_further() -> None:
    plain = scored_detours(tiny_model(), batch(), None, KNOWN, DETOURS[:1])
    sooner = scored_detours(tiny_model(), batch(), None, KNOWN, [DETOURS[0]._replace(enough=-1e3)])
    expected = scored_detours(tiny_model(), batch(), None, KNOWN, [DETOURS[0]._replace(enough=1e3)])
    assert expected == plain
    assert sooner[0] is not None
    assert plain[0] is not None
    assert sooner[0].gain != pytest.approx(plain[0].gain, abs=1e-4)
    assert sooner[0].token_scores == pytest.approx(plain[0].token_scores, abs=1e-5)


@torch.inference_mode()
def test_a_detour_whose_end_a_search_has_given_up_is_not_scored() -> None:
    trace = trace_of(tiny_model(), batch(), CONFIG, tiny_lm(), [KNOWN.get(row, []) for row in range(4)])
    del trace.passed[6:]  # before the eos of row 0
    found = finish(score_detours(tiny_model(), batch(), CONFIG, tiny_lm(), trace, KNOWN, DETOURS))
    assert [one is None for one in found] == [True, True, False, False]
