"""What the command says on standard error: lines, and a progress bar where someone watches."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "loading", "say"]


def say(message: object) -> None:
    """One line on standard error, whatever the message holds: a file name may have line breaks."""
    sys.stderr.write("spellstream: " + " ".join(str(message).splitlines()) + "\n")
    sys.stderr.flush()


def loading(what: str) -> None:
    """Say that something is being loaded, if that takes long: in a process that has not imported PyTorch yet."""
    if "torch" not in sys.modules:
        say(f"loading {what}")


class Progress:
    """How many are done, hours of audio, speed and time left, drawn on standard error if `show`; a context manager.

    What `say` is given meanwhile appears above it. Where it is not drawn, `line_seconds` asks for a line that often.
    """

    def __init__(
        self, total: int = 0, *, show: bool = False, unit: str = "files", line_seconds: float = math.inf
    ) -> None:
        self.total, self.unit = total, unit
        self._done, self._audio_seconds = 0, 0.0
        self._started = time.monotonic()
        self._line_seconds, self._last_line = line_seconds, self._started
        self._bar = _bar() if show else None

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.add_task(self.unit, total=self.total, audio="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, audio_seconds: float = 0.0) -> None:
        """Count one more as done."""
        self._done += 1
        self._audio_seconds += audio_seconds
        now = time.monotonic()
        speed = self._audio_seconds / max(now - self._started, 1e-9)
        audio = f"{self._audio_seconds / 3600:.2f} h of audio, {speed:.1f}× real time"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, total=self.total, audio=audio if speed else "")
        elif now - self._last_line >= self._line_seconds:
            self._last_line = now
            say(f"{self._done} of {self.total} {self.unit}, {audio}")

    def summary(self) -> str:
        """How many hours of audio were done in how long, and in each hour of that."""
        took = max(time.monotonic() - self._started, 1e-9)
        clock = f"{took:.0f} s" if took < 600 else f"{took / 3600:.2f} h"
        return (
            f"{self._audio_seconds / 3600:.2f} h of audio in {clock}: {self._audio_seconds / took:.1f} hours per hour"
        )


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[audio]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # it would send transcripts to standard error
    )
