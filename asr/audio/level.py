"""Level correction: very quiet speech and integer-scaled floats are brought into the range that the models know."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["LevelCorrector"]

_SAMPLE_RATE = 16_000
_WINDOW_SAMPLES = 512
_STRETCH_SAMPLES = 938 * _WINDOW_SAMPLES  # 30 s: the longest stretch held back, and the span of one gain
# From the first loud window on; a stream that is normal so far is never changed.
_TRIAL_WINDOWS = 2 * _SAMPLE_RATE // _WINDOW_SAMPLES
_FADE_SAMPLES = _SAMPLE_RATE // 100  # from one gain to the next

_LOUD_DB = -55.0  # power of a window re full scale; a sentence 40 dB below the usual level stays under it
_FLOOR_DB = -90.0  # below it, audio has too few bits to amplify
_TARGET_DB = -18.0
_ACTIVE_DB = 40.0  # windows further than this below the loudest do not count
_MODULATION_DB = 6.0  # least difference between loud and soft windows of speech; steady noise has less than 1
_INTEGER_PEAK = 64.0  # no float recording overshoots this far
_INTEGER_SCALES = (32_768.0, 8_388_608.0, 2_147_483_648.0)  # full scale of 16, 24 and 32 bits

_LOG = logging.getLogger(__name__)

Samples = NDArray[np.float32]


class LevelCorrector:
    """Level correction of one stream at 16 kHz.

    A stream whose level is normal passes through bit for bit, without delay after its first two seconds of sound. One
    that stays below -55 dBFS is held 30 s at a time, and amplified to -18 dBFS if its level fluctuates like speech.
    Floats that reach 64 or more are divided by the integer range that fits, with a warning. Windows and stretches lie
    at fixed positions, so the result is the same however the stream is cut.

    Args:
        name: source name for warnings.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._divisor: float | None = None  # of all samples to come; None: not known yet
        self._gain: float | None = None  # of the previous stretch
        self._clear()

    def _clear(self) -> None:
        """Start a stretch."""
        self._pieces: list[Samples] = []  # held back
        self._held_samples = 0
        self._partial_window = np.zeros(0, np.float32)
        self._powers: list[float] = []  # of the complete windows
        self._peak = 0.0
        self._first_loud: int | None = None  # number of the first loud window

    def step(self, samples: Samples) -> Iterator[Samples]:
        """Take the next samples; yield those that are ready, in their original pieces."""
        while self._divisor is None and len(samples):
            piece, samples = np.split(samples, [_STRETCH_SAMPLES - self._held_samples])
            self._take(piece)
            if self._is_normal():
                self._divisor = 1.0
                yield from self._release(1.0)
            elif self._held_samples == _STRETCH_SAMPLES:
                yield from self._release(self._judge())
        if len(samples):
            yield samples if self._divisor == 1.0 else samples / np.float32(self._divisor)

    def flush(self) -> Iterator[Samples]:
        """Yield the held samples at the end of the stream."""
        yield from self._release(self._judge())

    def _take(self, piece: Samples) -> None:
        """Hold back a piece and measure its windows."""
        self._pieces.append(piece)
        self._held_samples += len(piece)
        windows = np.concatenate((self._partial_window, piece))
        whole = len(windows) // _WINDOW_SAMPLES * _WINDOW_SAMPLES
        self._partial_window = windows[whole:]
        for window in windows[:whole].reshape(-1, _WINDOW_SAMPLES):
            self._measure(window)

    def _measure(self, window: Samples) -> None:
        power = float(np.square(window, dtype=np.float64).mean())
        if self._first_loud is None and _decibels(power) > _LOUD_DB:
            self._first_loud = len(self._powers)
        self._powers.append(power)
        if self._first_loud is None or len(self._powers) <= self._first_loud + _TRIAL_WINDOWS:
            self._peak = max(self._peak, float(np.abs(window).max()))

    def _is_normal(self) -> bool:
        """Whether the stretch is loud enough, in the range of floats, and long enough to be sure of both."""
        if self._first_loud is None or self._peak > 1:
            return False
        return len(self._powers) >= self._first_loud + _TRIAL_WINDOWS

    def _judge(self) -> float:
        """The gain of the held stretch; a loud one also decides the divisor of all samples to come."""
        if len(self._partial_window) and self._held_samples < _STRETCH_SAMPLES:  # the end of the stream
            self._measure(self._partial_window)
        if self._peak > _INTEGER_PEAK:
            self._divisor = next((scale for scale in _INTEGER_SCALES if self._peak <= 1.5 * scale), _INTEGER_SCALES[-1])
            message = "%s: float samples reach %.0f, as if scaled as integers: they are divided by %.0f"
            _LOG.warning(message, self._name, self._peak, self._divisor)
            return 1.0 / self._divisor
        if self._first_loud is not None:
            self._divisor = 1.0
            return 1.0
        return _speech_gain(np.array(self._powers))

    def _release(self, gain: float) -> Iterator[Samples]:
        """Yield the held samples with a gain, faded in from that of the previous stretch."""
        pieces, before = self._pieces, gain if self._gain is None else self._gain
        self._clear()
        self._gain = gain
        position = 0
        for piece in pieces:
            if gain == before == 1.0:
                yield piece
                continue
            gains = np.full(len(piece), gain, np.float32)
            if position < _FADE_SAMPLES and gain != before and self._divisor in (None, 1.0):
                ramp = np.minimum(np.arange(position + 1, position + len(piece) + 1) / _FADE_SAMPLES, 1)
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
