"""What the command says on standard error: lines, and a progress bar where someone watches."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Progress", "say"]


def say(message: object) -> None:
    """One line on standard error, whatever characters the message (a file name, say) holds."""
    sys.stderr.write(_line(message) + "\n")
    sys.stderr.flush()


def _line(message: object) -> str:
    return "spellstream: " + " ".join(str(message).splitlines())


class Progress:
    """A bar with files done, hours of audio, speed and time left; with `show` false nothing but what `say` is given.

    Args:
        total: how many times `advance` will be called.
        show: draw the bar on standard error.
        unit: what is counted.
    """

    def __init__(self, total: int = 0, *, show: bool = False, unit: str = "files") -> None:
        self._total, self._unit = total, unit
        self._audio_seconds = 0.0
        self._started = time.monotonic()
        self._bar = _bar() if show else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.add_task(self._unit, total=self._total, audio="")
            self._bar.start()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, audio_seconds: float = 0.0) -> None:
        """Count one more as done."""
        self._audio_seconds += audio_seconds
        if self._bar is not None:
            speed = self._audio_seconds / max(time.monotonic() - self._started, 1e-9)
            audio = f"{self._audio_seconds / 3600:.2f} h of audio, {speed:.1f}× real time" if speed else ""
            self._bar.update(self._bar.task_ids[0], advance=1, audio=audio)

    def say(self, message: object) -> None:
        """One line on standard error, above the bar."""
        if self._bar is None:
            say(message)
        else:
            self._bar.console.print(_line(message), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[audio]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # it would send transcripts to standard error
    )
