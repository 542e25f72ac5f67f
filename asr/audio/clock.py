"""The container's clock: the time of decoded audio, and the silence that fills gaps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock", "TimestampError"]

_START_SECONDS = 0.01  # a track that starts later than this begins with silence
_GAP_SECONDS = 0.15  # a jump of less than this is jitter
_MAX_GAP_SECONDS = 3600.0  # a jump of more than this is a broken timestamp
_BACK_SECONDS = 0.5  # a larger jump back is a restart: another stream was appended


class TimestampError(Exception):
    """An impossible timestamp."""


@dataclass
class Clock:
    """A track's position in time, in seconds since the start of the container.

    Args:
        is_kept: whether the container's timestamps count time, rather than samples.
        zero: the timestamp at which the container starts; None: the track's first.
        limit: no gap ends later.
    """

    is_kept: bool
    zero: float | None
    limit: float
    position: float = 0.0  # end of the delivered audio, silence included
    _shift: float = 0.0  # added to timestamps after a restart
    _last: float | None = None

    def gap(self, timestamp: float | None, length: float) -> float:
        """Seconds of silence before a frame with this timestamp and length; advances the clock to the frame's end.

        Audio is never dropped: if timestamps fall behind, the clock stays ahead of them until the next gap.

        Raises:
            TimestampError: the timestamp jumps too far ahead.
        """
        silence = 0.0
        if self.is_kept and timestamp is not None:
            if self.zero is None:
                self.zero = timestamp
            at = timestamp - self.zero
            if self._last is not None and at < self._last - _BACK_SECONDS:
                self._shift = self.position - at
            jump = at + self._shift - self.position
            if jump > (_START_SECONDS if self._last is None else _GAP_SECONDS):
                if self.position + jump > self.limit or jump > _MAX_GAP_SECONDS:
                    raise TimestampError(f": timestamps jump by {jump:.0f} s")
                silence = jump
            self._last = at
        self.position += silence + length
        return silence
