"""Messages on standard error: lines, and a progress bar on terminals; text on standard output."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from asr.interrupts import uninterrupted

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["STANDARD_OUTPUT", "Progress", "byte_progress", "loading", "say", "say_warnings", "write_output"]

STANDARD_OUTPUT = "standard output"


def say(message: object) -> None:
    """Print a message on standard error, as one line even if a file name in it has line breaks."""
    sys.stderr.write("spellstream: " + " ".join(str(message).splitlines()) + "\n")
    sys.stderr.flush()


def write_output(text: str = "") -> None:
    """Write to standard output, and deliver it with all that was printed before.

    Raises:
        BrokenPipeError: its reader is gone.
        OSError: it cannot be written, as on a full disk; the error names standard output.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def say_warnings() -> None:
    """Print logged warnings, unless logging is configured."""
    logging.lastResort = _Saying(logging.WARNING)


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def loading(what: str, quiet: bool = False) -> None:
    """Announce a slow load, and import PyTorch, which takes most of it.

    Ctrl-C takes effect after the import, which an exception can abort together with the process.
    """
    if "torch" not in sys.modules:
        if not quiet:
            say(f"loading {what}")
        with uninterrupted():
            import torch  # noqa: F401


class Progress:
    """Progress display: sources done, hours of audio, speed and time left; a context manager.

    Messages of `say` appear above the bar.

    Args:
        total: number of sources.
        show: draw a bar on standard error.
        unit: name of the counted things.
        line_seconds: without a bar, interval between printed lines.
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
        """Count one more source as done, with its seconds of audio."""
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
        """Hours of audio done, time taken, and hours of audio per hour."""
        took = max(time.monotonic() - self._started, 1e-9)
        clock = f"{took:.0f} s" if took < 600 else f"{took / 3600:.2f} h"
        return (
            f"{self._audio_seconds / 3600:.2f} h of audio in {clock}: {self._audio_seconds / took:.1f} hours per hour"
        )


@contextlib.contextmanager
def byte_progress(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar of bytes downloaded, speed and time left; yields a function that counts further bytes.

    Args:
        total: total number of bytes.
        show: draw the bar on standard error.
    """
    if not show:
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (DownloadColumn(), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)


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
