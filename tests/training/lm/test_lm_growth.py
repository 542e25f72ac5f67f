"""Widening of a language model: the wider model starts with the predictions of the narrow one."""

from __future__ import annotations

import pytest
import torch

from asr.config import LmConfig
from asr.errors import ConfigError
from asr.model.lm import LanguageModel
from asr.training.lm.growth import widened


def model(hidden_size: int, embedding_size: int = 8, layers: int = 2, seed: int = 1) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(LmConfig(20, embedding_size, hidden_size, layers, 0.0)).eval()


def test_a_wider_model_predicts_the_same_and_all_its_units_learn() -> None:
    """A widened model of two layers has the same predictions, and its new units get gradients."""
    narrow, wide = model(12), model(17, seed=2)
    wide.load_state_dict(widened(narrow, wide))
    tokens = torch.randint(0, 20, (3, 9))
    expected, _ = narrow(tokens, narrow.initial_state(3))
    found, _ = wide(tokens, wide.initial_state(3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.logsumexp(-1).square().mean().backward()
    gradient = wide.projection.weight.grad
    assert gradient is not None
    assert (gradient[:, 12:].abs().amax(0) > 0).all()


@pytest.mark.parametrize("other", [model(11), model(17, embedding_size=9), model(17, layers=1)])
def test_what_cannot_grow_into_another_is_refused(other: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="only hidden_size may grow"):
        widened(model(12), other)
