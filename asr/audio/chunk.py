"""The output of every decoder: samples at the file's own rate, in blocks of bounded size."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from asr.errors import AudioError

__all__ = ["Chunk", "chunk_frames", "cut_short"]

# Largest chunk over all channels: 16 MiB of float32.
_MAX_CHUNK_VALUES = 1 << 22
_ROUNDING_SECONDS = 0.02  # a declared total that exceeds the part read by less is not worth reporting


class Chunk(NamedTuple):
    """Decoded audio: `values` is `(frames, channels)`, floats or integers."""

    sample_rate: int
    values: NDArray[Any]


def chunk_frames(rate: int, channels: int, block_seconds: float) -> int:
    """Number of frames to decode at a time."""
    return max(1, int(min(rate * block_seconds, _MAX_CHUNK_VALUES / channels)))


def cut_short(name: str, read_seconds: float, total_seconds: float | None, detail: str = "") -> AudioError:
    """The error for an incomplete file; the audio before and after the damage was delivered."""
    is_more = total_seconds is not None and total_seconds > read_seconds + _ROUNDING_SECONDS
    total = f" of {total_seconds:.2f} s" if is_more else ""
    return AudioError(name, f"is damaged or cut short: {read_seconds:.2f} s{total} could be read{detail}")
