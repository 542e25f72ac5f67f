"""Exit status of a recipe's program."""

from __future__ import annotations

import sys
from collections.abc import Callable

from asr.errors import SpellstreamError

__all__ = ["status"]


def status(program: str, work: Callable[[], None]) -> int:
    """Run the work; returns the exit status. An input error is one line on standard error."""
    try:
        work()
    except SpellstreamError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0
