"""PCM bytes → float samples, and several channels → one; the same however the stream is cut into chunks.

The only place that decodes PCM: files, standard input, microphones and the server's protocols all come through here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENCODINGS", "INTEGER_ENCODINGS", "Downmix", "DownmixState", "decode", "to_float"]

ENCODINGS = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
"""Names of the PCM encodings, as ffmpeg spells them, with the bytes of a sample."""

INTEGER_ENCODINGS = {1: "u8", 2: "s16le", 3: "s24le", 4: "s32le"}
"""The integer encoding of each sample width in bytes, as in WAV files: 8-bit samples are unsigned."""

_DTYPES = {"u8": "u1", "s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}

_WINDOW_SECONDS = 0.02  # cancellation of channels is checked per window
_FADE_SECONDS = 0.005  # from one mix to another
# Mean power of the mix relative to that of the channels: 0.5 where they are independent, 1 where they are equal.
_CANCELS_BELOW = 0.05
_HEARD_ABOVE = 0.2
_LOUDER = 4.0  # a channel replaces the selected one at this many times its power
_SILENCE_POWER = 1e-10
_MEAN = -1  # the mean of all channels, in place of a channel number


def decode(data: bytes, encoding: str = "s16le", channels: int = 1) -> tuple[NDArray[np.float32], bytes]:
    """Decode interleaved little-endian PCM.

    Args:
        data: any number of bytes; those after the last whole frame are returned.
        encoding: one of `ENCODINGS`.
        channels: the number of interleaved channels.

    Returns:
        `(frames, channels)` float32, integers scaled to [-1, 1], and the leftover bytes of an incomplete frame, to be
        put before the next data.
    """
    frame_bytes = ENCODINGS[encoding] * channels
    whole = len(data) // frame_bytes * frame_bytes
    values: NDArray[Any]
    if encoding == "s24le":  # the upper three bytes of 32-bit integers
        words = np.zeros((whole // 3, 4), np.uint8)
        words[:, 1:] = np.frombuffer(data, np.uint8, whole).reshape(-1, 3)
        values = words.view("<i4")[:, 0]
    else:
        values = np.frombuffer(data, _DTYPES[encoding], whole // ENCODINGS[encoding])
    return to_float(values).reshape(-1, channels), data[whole:]


def to_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert samples of any shape to float32 in a new array, integers scaled to [-1, 1].

    Raises:
        TypeError: they are neither floats nor int8, int16, int32 or uint8.
    """
    kind = values.dtype
    if kind.kind != "f" and kind != np.uint8 and not (kind.kind == "i" and kind.itemsize <= 4):
        raise TypeError(f"its samples are {kind}: they must be float, int8, int16, int32 or uint8")
    with np.errstate(over="ignore", invalid="ignore"):  # the caller reports infinity with its position
        floats = values.astype(np.float32)
    if kind == np.uint8:
        floats -= 128
    if kind.kind != "f":
        floats *= 0.5 ** (8 * kind.itemsize - 1)
    return floats


class DownmixState(NamedTuple):
    """State of a downmix between two chunks."""

    pending: NDArray[np.float32]  # (frames, channels): the start of a window
    selected: int  # the channel heard at the end of the last window, or _MEAN

    @classmethod
    def start(cls, channels: int) -> DownmixState:
        return cls(np.zeros((0, channels), np.float32), _MEAN)


class Downmix:
    """Downmix of several channels to one: their mean or, where they cancel, the loudest of them.

    Phase-inverted stereo, such as a balanced line plugged into a stereo socket, has a mean near zero. Windows
    lie at fixed positions of the stream and each is mixed by its own content, so chunks give the same samples as the
    whole, with a delay of less than 20 ms (none for a single channel); `flush` returns the rest. Unless channels
    cancel, the result is exactly the mean.

    Args:
        sample_rate: in Hz.
        channels: the number of channels.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.channels = channels
        self._window = max(1, round(sample_rate * _WINDOW_SECONDS))
        fade = max(1, round(sample_rate * _FADE_SECONDS))
        self._fade = np.minimum(np.arange(1, self._window + 1, dtype=np.float32) / np.float32(fade), 1)

    def step(self, values: NDArray[np.float32], state: DownmixState) -> tuple[NDArray[np.float32], DownmixState]:
        """Mix the next `values` `(frames, channels)`: the samples that are ready, `(samples,)`, and the next state."""
        if self.channels == 1:
            return values[:, 0], state
        values = np.ascontiguousarray(np.concatenate((state.pending, values)))
        whole = len(values) // self._window * self._window
        mono, selected = self._mix(values[:whole], self._window, state.selected)
        return mono, DownmixState(values[whole:].copy(), selected)

    def flush(self, state: DownmixState) -> NDArray[np.float32]:
        """Mix the samples of the last, incomplete window; then a new stream may start."""
        mono, _ = self._mix(state.pending, len(state.pending), state.selected)
        return mono

    def _mix(self, values: NDArray[np.float32], window: int, selected: int) -> tuple[NDArray[np.float32], int]:
        """Mix whole windows; also return the channel that is selected after them."""
        with np.errstate(over="ignore", invalid="ignore"):
            mono = values[:, 0].copy()
            for channel in range(1, self.channels):  # numpy's own mean of a few columns takes 20 times as long
                mono += values[:, channel]
            mono /= np.float32(self.channels)
            if not len(values):
                return mono, selected

            windows = values.reshape(-1, window, self.channels)
            total = _power(windows.reshape(-1, window * self.channels))
            mixed = _power(mono.reshape(-1, window))
            cancels = (mixed < _CANCELS_BELOW * total) & (total > _SILENCE_POWER)
            heard = mixed > _HEARD_ABOVE * total
        if selected == _MEAN and not cancels.any():
            return mono, selected

        for number, samples in enumerate(mono.reshape(-1, window)):  # views: written in place
            before = selected
            if cancels[number]:
                selected = _select(_power(windows[number].T), selected)
            elif heard[number]:
                selected = _MEAN
            old, new = (samples if one == _MEAN else windows[number, :, one] for one in (before, selected))
            samples[:] = new if before == selected else old + self._fade[:window] * (new - old)
        return mono, selected


def _power(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean power of each row."""
    power: NDArray[np.float32] = np.einsum("rn,rn->r", rows, rows) / np.float32(rows.shape[1])
    return power


def _select(power: NDArray[np.float32], selected: int) -> int:
    """The channel to use, among those about as loud as the loudest: the previous one if possible, else the first."""
    loud = power * _LOUDER > power.max()
    return selected if selected != _MEAN and loud[selected] else int(loud.argmax())
