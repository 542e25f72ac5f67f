"""Agreement of marks and capitals with held-out text, and offsets of the marks' logits for the best F1.

Marks are rare, so the most likely choice is "no mark" too often: it minimises errors, not F1. A constant per mark,
chosen on held-out text, corrects this (Lipton et al. 2014 on thresholds for F1). Where pauses are unknown the model is
less certain than where they are known, and a segment rarely ends within a sentence: each has constants of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.text.marks import Agreement
from asr.training.punctuation.batches import Batch, dev_batches
from asr.training.punctuation.config import PunctuationTrainConfig
from asr.training.punctuation.data import IGNORED, Text, sentence_end_numbers
from asr.writing.network import PunctuationNetwork, kinds_of_offsets

__all__ = ["Measured", "best_offsets", "measure"]

_OFFSETS = tuple(0.25 * step for step in range(-2, 9))
_ROUNDS = 2


@dataclass(frozen=True)
class Measured:
    """Agreement with held-out text: of each mark, and of words that have capitals of their own."""

    marks: dict[str, Agreement]
    capitals: Agreement
    offsets: Tensor  # (kinds of offsets, marks), added to the logits

    @property
    def mean(self) -> float:
        """Mean F1 of capitals and the marks that the held-out text has."""
        found = [each.f1 for each in (*self.marks.values(), self.capitals) if each.right + each.missed]
        return sum(found) / max(1, len(found))

    def __str__(self) -> str:
        marks = "  ".join(f"{mark} {each.f1:.3f}" for mark, each in self.marks.items())
        return f"F1  {marks}  capitals {self.capitals.f1:.3f}"


@torch.inference_mode()
def measure(network: PunctuationNetwork, text: Text, config: PunctuationTrainConfig) -> Measured:
    """Measure marks, with the best offsets, and capitals on the held-out text; half of the rows have pauses."""
    device, was_training = network.marks.bias.device, network.training
    network.eval()
    kept: list[tuple[Tensor, ...]] = []
    for batch in dev_batches(text, config):
        moved = Batch(*(x.to(device) for x in batch))
        logits = network(*moved[:4])
        marks, cases = moved.marks != IGNORED, moved.cases != IGNORED
        kinds = kinds_of_offsets(moved.pauses[marks])
        kept.append(
            (logits.marks[marks], moved.marks[marks], kinds, logits.cases.argmax(-1)[cases], moved.cases[cases])
        )
    network.train(was_training)

    scores, wanted, kinds, cases_found, cases_wanted = (torch.cat(each) for each in zip(*kept, strict=True))
    # Segments seldom end with a comma: an offset for the best F1 of those few would add commas at many ends.
    free = [range(len(config.model.marks))] * 2 + [sentence_end_numbers(config.model)]
    offsets = torch.stack([best_offsets(scores[kinds == i], wanted[kinds == i], free[i]) for i in range(len(free))])
    found = (scores + offsets[kinds]).argmax(-1)
    by_mark = {mark: _agreement(wanted, found, number) for number, mark in enumerate(config.model.marks) if number}
    right = int(((cases_wanted == cases_found) & (cases_wanted > 0)).sum())
    capitals = Agreement(right, int((cases_wanted > 0).sum()) - right, int((cases_found > 0).sum()) - right)
    return Measured(by_mark, capitals, offsets)


def best_offsets(scores: Tensor, wanted: Tensor, free: Collection[int]) -> Tensor:
    """Constants `(marks,)` that give the best mean F1 of the marks that occur; 0 for the first, which is no mark.

    Args:
        scores: logits `(words, marks)`.
        wanted: number `(words,)` of each word's mark.
        free: the marks that may have a constant; the others have 0.
    """
    offsets = scores.new_zeros(scores.shape[1])
    present = [mark for mark in range(1, scores.shape[1]) if bool((wanted == mark).any())]

    def total_f1(tried: Tensor) -> float:
        found = (scores + tried).argmax(-1)
        return sum(_agreement(wanted, found, mark).f1 for mark in present)

    for _ in range(_ROUNDS):
        for mark in (mark for mark in present if mark in free):
            tries = [offsets.index_fill(0, torch.tensor(mark, device=scores.device), value) for value in _OFFSETS]
            offsets = max([offsets, *tries], key=total_f1)
    return offsets


def _agreement(wanted: Tensor, found: Tensor, kind: int) -> Agreement:
    ours, theirs = wanted == kind, found == kind
    return Agreement(int((ours & theirs).sum()), int((ours & ~theirs).sum()), int((~ours & theirs).sum()))
