"""CUDA graphs without a GPU: a replay writes into the tensors of the first result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asr.model.states import flatten

__all__ = ["Capturing"]


class Capturing:
    """A stub for the GPU that records captures and replays."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        self.captured += 1
        result = function()

        def replay() -> None:
            self.replayed += 1
            for own, new in zip(flatten(result)[0], flatten(function())[0], strict=True):
                own.copy_(new)

        return replay, result
