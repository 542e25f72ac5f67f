"""The trace of a search: the path to each hypothesis, and the state before each token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asr.config import SearchConfig
from asr.search import Trace, beam_search
from asr.search.trace import Path
from asr.text.tokenizer import SOS
from tests.support.tiny_model import sounds, tiny_lm, tiny_model
from tests.support.traces import trace_of

CONFIG = SearchConfig(beam_size=4, nbest=4, lm_weight=0.4, length_bonus=0.5, coverage_penalty=0.2)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, beam_margin=3.0)])
@torch.inference_mode()
def test_the_path_to_a_hypothesis_has_its_scores_and_states(config: SearchConfig) -> None:
    torch.manual_seed(6)
    model, lm, trace = tiny_model(), tiny_lm(), Trace()
    batch = model.encode(*sounds(3))
    found = beam_search(model, batch, config, lm, None, trace)
    assert found == beam_search(model, batch, config, lm)
    for place in range(2):
        texts = [nbest[place].tokens for nbest in found]
        expected = trace_of(model, batch, config, lm, texts)
        for utterance, tokens in enumerate(texts):
            path, forced = trace.path(utterance, tokens), expected.path(utterance, tokens)
            assert len(path.rows) >= len(tokens)  # the search drops hypotheses that are too long
            assert path.totals == pytest.approx(forced.totals[: len(path.rows)], abs=1e-4)
            for u, (row, same) in enumerate(zip(path.rows, forced.rows, strict=False)):
                passed, known = trace.passed[u], expected.passed[u]
                assert [int(passed.last[row]), int(passed.owners[row])] == [[SOS, *tokens][u], utterance]
                torch.testing.assert_close(passed.decoder.hidden[row], known.decoder.hidden[same])
                for some, others in zip(passed.full[-1][:2], known.full[-1][:2], strict=True):  # h and c
                    torch.testing.assert_close(some[row], others[same])


@torch.inference_mode()
def test_a_path_ends_where_the_search_went_on_without_the_hypothesis() -> None:
    torch.manual_seed(6)
    batch = tiny_model().encode(*sounds(1))
    trace = trace_of(tiny_model(), batch, CONFIG, tiny_lm(), [[5, 9, 9]])
    assert trace.path(0, [5, 9, 7]).rows == [0, 0, 0]
    assert trace.path(0, [5, 9, 9, 9]).rows == trace.path(0, [5, 9, 9]).rows == [0, 0, 0, 0]
    assert trace.path(1, [5]) == Path([], [])
