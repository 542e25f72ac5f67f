"""Forced alignment: when each token of a known text was spoken, by the CTC head.

torchaudio's kernel is the normal path. Where torchaudio cannot be loaded, a Viterbi search in plain PyTorch finds the
same path, and one logged line names the two versions and the remedy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr.text.tokenizer import BLANK

__all__ = ["align", "viterbi"]

_LOG = logging.getLogger(__name__)
_CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def align(log_probs: Tensor, tokens: list[int]) -> list[tuple[int, int]] | None:
    """Forced alignment: the most likely CTC path that spells `tokens`.

    Args:
        log_probs: `(T, V)` of one utterance.
        tokens: the text, without blanks.

    Returns:
        For each token its first frame and the frame after its last, or None if there are too few frames for the tokens.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    if not tokens or len(tokens) + repeats > log_probs.shape[0]:
        return None

    path = _path_finder()(log_probs.float(), tokens)
    spans: list[tuple[int, int]] = []
    previous = BLANK
    for frame, token in enumerate(path):
        if token != BLANK and token != previous:
            spans.append((frame, frame + 1))
        elif token != BLANK:
            spans[-1] = (spans[-1][0], frame + 1)
        previous = token
    return spans


def viterbi(log_probs: Tensor, tokens: list[int]) -> list[int]:
    """The most likely CTC path `T` frames long that spells `tokens`, in plain PyTorch.

    States are the tokens with a blank before, between and after them; each frame updates all states at once.

    Args:
        log_probs: `(T, V)` float32 of one utterance, with enough frames for the tokens.
        tokens: the text, at least one token, without blanks.
    """
    log_probs = log_probs.cpu()
    frames, states = log_probs.shape[0], 2 * len(tokens) + 1
    labels = torch.full((states,), BLANK)
    labels[1::2] = torch.tensor(tokens)
    emissions = log_probs[:, labels]  # (T, states)

    # A path may skip the blank between two tokens that differ.
    skippable = torch.zeros(states, dtype=torch.bool)
    skippable[3::2] = labels[3::2] != labels[1:-2:2]

    # scores[s + 2] is the best path's score that ends in state s; the first two entries are padding.
    scores = torch.full((states + 2,), -torch.inf)
    scores[2:4] = emissions[0, :2]
    skip_penalty = torch.zeros(states).masked_fill_(~skippable, -torch.inf)
    steps = torch.zeros(frames, states, dtype=torch.long)  # how many states back the best predecessor lies
    for t in range(1, frames):
        candidates = torch.stack([scores[2:], scores[1:-1], scores[:-2] + skip_penalty])
        best, steps[t] = candidates.max(dim=0)
        scores[2:] = best + emissions[t]

    # The path ends in the last token or in the blank after it.
    state = states - 1 if scores[-1] > scores[-2] else states - 2
    backwards = [state]
    step_back = steps.tolist()
    for t in range(frames - 1, 0, -1):
        state -= step_back[t][state]
        backwards.append(state)
    label_list = labels.tolist()
    return [label_list[state] for state in reversed(backwards)]


@functools.cache
def _path_finder() -> Callable[[Tensor, list[int]], list[int]]:
    """Find torchaudio's kernel, or `viterbi` with one line in the log if torchaudio cannot be loaded."""
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        _LOG.warning("%s", _explanation(error))
        return viterbi
    return functools.partial(_torchaudio_path, forced_align)


def _torchaudio_path(forced_align: Callable[..., Any], log_probs: Tensor, tokens: list[int]) -> list[int]:
    targets = torch.tensor([tokens], dtype=torch.int32, device=log_probs.device)
    path, _ = forced_align(log_probs[None].contiguous(), targets, blank=BLANK)
    found: list[int] = path[0].tolist()
    return found


def _explanation(error: Exception) -> str:
    """One line: both versions, what happens instead, and the remedy."""
    installed = f"torch {torch.__version__}"
    if isinstance(error, ModuleNotFoundError):
        problem, remedy = f"torchaudio is not installed beside {installed}", "pip install torchaudio"
    else:
        problem = f"torchaudio {importlib.metadata.version('torchaudio')} cannot be loaded beside {installed}"
        remedy = "pip install --upgrade --force-reinstall torch torchaudio"
    if "+cpu" in torch.__version__:  # PyPI's torchaudio for Linux is built for CUDA
        remedy += f" --index-url {_CPU_WHEELS}"
    return f"{problem}: word times take longer to compute; remedy: {remedy}"
