"""Work in steps: generators that yield wherever more urgent work may run first, and return the result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from typing import TypeVar

__all__ = ["Steps", "finish"]

T = TypeVar("T")
Steps = Generator[None, None, T]


def finish(steps: Steps[T], stopped: Callable[[], bool] = lambda: False) -> T:
    """Do all steps, one after the other; return the result.

    Raises:
        CancelledError: `stopped` has become true, which is checked before each step.
    """
    while not stopped():
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
    steps.close()
    raise CancelledError
