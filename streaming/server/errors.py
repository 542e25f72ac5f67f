"""Errors reported to clients, in addition to those of the recogniser."""

from __future__ import annotations

from asr.errors import SpellstreamError

__all__ = ["LimitError", "OverloadError", "engine_failed"]


class LimitError(SpellstreamError):
    """A stream exceeded one of its limits and was ended (close code 1008).

    Args:
        message: the limit, in words.
        limit: its name, for metrics.
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class OverloadError(SpellstreamError):
    """There is no room for another stream or request now (status 503, close code 1013).

    Args:
        message: the reason, in words.
        reason: the same as one word, for metrics.
    """

    retry_after_seconds = 3

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def engine_failed() -> OverloadError:
    """The error for a file that was waiting when the engine failed."""
    return OverloadError("the engine has failed: send the file again", "stopping")
