"""Errors of TensorBoard's writer, which names no file, as errors that name the folder of the curves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from asr.errors import TrainingError

__all__ = ["naming", "quiet_writer"]


@contextlib.contextmanager
def naming(folder: Path, failed: bool = False) -> Iterator[None]:
    """Convert errors of TensorBoard's writer in the block to errors that name `folder`.

    Args:
        folder: of the curves.
        failed: whether the run has failed already; the writer's errors are then dropped, so that they hide nothing.

    Raises:
        TrainingError: the block raised an OSError, or an error that Lightning made of one.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        if failed:
            return
        reason = f"cannot be written: {cause.strerror or cause}; the run resumes from the last save"
        raise TrainingError(f"{folder}: {reason}") from error


@contextlib.contextmanager
def quiet_writer() -> Iterator[None]:
    """Within the block, the writer's thread prints no traceback: the next use of the writer raises the same error."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
