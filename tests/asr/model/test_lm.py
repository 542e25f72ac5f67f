"""The language model: steps equal the whole, its state is a value, and it learns."""

from __future__ import annotations

import pytest
import torch

from asr.config import LmConfig
from asr.model.lm import LanguageModel
from asr.text.tokenizer import EOS, SOS


def tiny(**changes: float) -> LanguageModel:
    return LanguageModel(LmConfig(12, embedding_size=8, hidden_size=16, **changes)).eval()  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("dense_layers", [0, 2])
def test_token_by_token_equals_the_whole(dense_layers: int) -> None:
    """`step` gives after each token what `forward` gives for the whole sentence."""
    lm = tiny(dense_layers=dense_layers)
    tokens = torch.randint(4, 12, (3, 7))
    whole, last = lm(tokens, lm.initial_state(3))
    state = lm.initial_state(3)
    for u in range(7):
        log_probs, state = lm.step(tokens[:, u], state)
        torch.testing.assert_close(log_probs, whole[:, u].log_softmax(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(state, last, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_state_follows_its_hypothesis() -> None:
    """Selected rows continue as in their batch; selection does not change the original state."""
    lm = tiny()
    _, state = lm.step(torch.tensor([5, 6, 7]), lm.initial_state(3))
    kept = state.map(torch.Tensor.clone)
    all_rows, _ = lm.step(torch.tensor([8, 8, 8]), state)
    picked, _ = lm.step(torch.tensor([8, 8]), state.select(torch.tensor([2, 0])))
    torch.testing.assert_close(picked, all_rows[[2, 0]])
    assert not torch.allclose(all_rows[2], all_rows[0])
    assert torch.equal(kept.hidden, state.hidden)
    assert torch.equal(kept.cell, state.cell)


@pytest.mark.parametrize("dense_layers", [0, 1])
def test_it_learns_a_text_by_heart(dense_layers: int) -> None:
    """After some passes over one sentence, each of its tokens is the likeliest next one."""
    lm = tiny(dropout=0.0, dense_layers=dense_layers).train()
    sentence = torch.tensor([[SOS, 5, 7, 5, 9, 11, 5, 4, EOS]])
    inputs, targets = sentence[:, :-1], sentence[:, 1:]
    optimiser = torch.optim.Adam(lm.parameters(), lr=0.02)
    for _ in range(120):
        logits, _ = lm(inputs, lm.initial_state(1))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    logits, _ = lm.eval()(inputs, lm.initial_state(1))
    assert logits.argmax(-1).tolist() == targets.tolist()
    assert loss < 0.1


def test_one_layer_with_dropout_is_no_reason_for_a_warning() -> None:
    """With one layer, PyTorch's LSTM would warn of the default dropout (warnings are errors here)."""
    lm = tiny(layers=1, dropout=0.5).train()
    tokens = torch.randint(4, 12, (1, 5))
    first, _ = lm(tokens, lm.initial_state(1))
    second, _ = lm(tokens, lm.initial_state(1))
    assert not torch.allclose(first, second)  # and it is at work
