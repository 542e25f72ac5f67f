"""Level correction: very quiet speech and integer-scaled floats are brought into the range that the models know."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Level"]

_RATE = 16_000
_WINDOW = 512
_STRETCH = 938 * _WINDOW  # 30 s: the longest stretch held back, and the span of one gain
_SURE_WINDOWS = 2 * _RATE // _WINDOW  # from the first loud window on; a stream normal until then is never changed
_FADE = _RATE // 100  # from one gain to the next

_LOUD_DB = -55.0  # power of a window re full scale; a sentence 40 dB below the usual stays under it
_FLOOR_DB = -90.0  # below it, audio has too few bits to amplify
_TARGET_DB = -18.0
_ACTIVE_DB = 40.0  # windows further than this below the loudest do not count
_MODULATION_DB = 6.0  # least difference between loud and soft windows of speech; steady noise has less than 1
_INTEGER_PEAK = 64.0  # no float recording overshoots this far
_SCALES = (32_768.0, 8_388_608.0, 2_147_483_648.0)

_LOG = logging.getLogger(__name__)

Samples = NDArray[np.float32]


class Level:
    """One stream's gain, at 16 kHz.

    A stream whose level is normal passes through bit for bit, without delay after its first two seconds of sound. One
    that stays below -55 dBFS is held 30 s at a time, and amplified to -18 dBFS if its level fluctuates like speech.
    Floats that reach 64 or more are divided by the integer range that fits, with a warning. Windows and stretches lie
    at fixed positions, so the result is the same however the stream is cut.

    Args:
        name: source name for warnings.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._scale: float | None = None  # divisor for the whole stream; None: not known yet
        self._gain: float | None = None  # of the previous stretch
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[Samples] = []
        self._held = 0  # samples
        self._tail = np.zeros(0, np.float32)  # the start of a window
        self._powers: list[float] = []  # of the windows
        self._peak = 0.0
        self._loud_at: int | None = None  # the first loud window

    def step(self, samples: Samples) -> Iterator[Samples]:
        """Take the next samples; yield those that are ready, in their original pieces."""
        while self._scale is None and len(samples):
            piece, samples = np.split(samples, [_STRETCH - self._held])
            self._take(piece)
            if self._is_normal():
                self._scale = 1.0
                yield from self._release(1.0)
            elif self._held == _STRETCH:
                yield from self._release(self._judge())
        if len(samples):
            yield samples if self._scale == 1.0 else samples / np.float32(self._scale)

    def flush(self) -> Iterator[Samples]:
        """Yield the held samples at the end of the stream."""
        yield from self._release(self._judge())

    def _take(self, piece: Samples) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        windows = np.concatenate((self._tail, piece))
        whole = len(windows) // _WINDOW * _WINDOW
        self._tail = windows[whole:]
        for window in windows[:whole].reshape(-1, _WINDOW):
            self._measure(window)

    def _measure(self, window: Samples) -> None:
        power = float(np.square(window, dtype=np.float64).mean())
        if self._loud_at is None and _decibels(power) > _LOUD_DB:
            self._loud_at = len(self._powers)
        self._powers.append(power)
        if self._loud_at is None or len(self._powers) <= self._loud_at + _SURE_WINDOWS:
            self._peak = max(self._peak, float(np.abs(window).max()))

    def _is_normal(self) -> bool:
        return self._loud_at is not None and self._peak <= 1 and len(self._powers) >= self._loud_at + _SURE_WINDOWS

    def _judge(self) -> float:
        """The gain of the held stretch; may also fix the scale of the whole stream."""
        if len(self._tail) and self._held < _STRETCH:  # the end of the stream
            self._measure(self._tail)
        if self._peak > _INTEGER_PEAK:
            self._scale = next((scale for scale in _SCALES if self._peak <= 1.5 * scale), _SCALES[-1])
            message = "%s: float samples reach %.0f, as if scaled as integers: they are divided by %.0f"
            _LOG.warning(message, self._name, self._peak, self._scale)
            return 1.0 / self._scale
        if self._loud_at is not None:
            self._scale = 1.0
            return 1.0
        return _speech_gain(np.array(self._powers))

    def _release(self, gain: float) -> Iterator[Samples]:
        """Yield the held samples with their gain, faded in from the previous stretch's."""
        pieces, before = self._pieces, gain if self._gain is None else self._gain
        self._clear()
        self._gain = gain
        position = 0
        for piece in pieces:
            if gain == before == 1.0:
                yield piece
                continue
            gains = np.full(len(piece), gain, np.float32)
            if position < _FADE and gain != before and self._scale in (None, 1.0):
                ramp = np.minimum(np.arange(position + 1, position + len(piece) + 1) / _FADE, 1)
                gains = (before + ramp * (gain - before)).astype(np.float32)
            position += len(piece)
            yield piece * gains


def _speech_gain(powers: NDArray[np.float64]) -> float:
    """The gain of a quiet stretch: 1 if its level does not fluctuate like speech."""
    if not len(powers):
        return 1.0
    levels = 10 * np.log10(np.maximum(powers, 1e-20))
    top = float(np.percentile(levels, 95))
    active = levels[levels > top - _ACTIVE_DB]
    if top < _FLOOR_DB or np.percentile(active, 95) - np.percentile(active, 25) < _MODULATION_DB:
        return 1.0
    return float(10 ** ((_TARGET_DB - top) / 20))


def _decibels(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-20)))
