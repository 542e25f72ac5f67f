"""Any file, array or stream → 16 kHz mono float32 waveform; the only place that resamples.

Everything is read forwards in blocks, so memory use does not depend on the length. A source that cannot be read
completely raises an `AudioError`, never gives a shorter waveform. Files are decoded by `asr.audio.decode`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import numbers
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from asr.audio.chunk import Chunk, chunk_frames
from asr.audio.decode import file_chunks
from asr.audio.level import LevelCorrector
from asr.audio.pcm import Downmix, DownmixState, to_float
from asr.audio.tracks import Track
from asr.config import require
from asr.errors import AudioError

__all__ = ["SAMPLE_RATE", "Resampler", "Source", "blocks", "load", "source_name"]

_LOG = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | NDArray[Any] | torch.Tensor


class Resampler:
    """Resampling of a mono stream to 16 kHz; the result is the same however the stream is cut.

    Args:
        sample_rate: the stream's own rate in Hz, 1 kHz to 768 kHz; at 16 kHz samples pass through unchanged.
        source: source name for errors.

    Raises:
        AudioError: the rate is out of these bounds.
    """

    def __init__(self, sample_rate: int, source: object = "stream") -> None:
        _check_rate(sample_rate, source)
        self.sample_rate = sample_rate
        self._stream: Any = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def step(self, chunk: torch.Tensor) -> torch.Tensor:
        """Take the next samples, `(samples,)` float32 on the CPU, and return those ready at 16 kHz, if any."""
        if self._stream is None:
            return chunk
        return torch.from_numpy(self._stream.resample_chunk(chunk.numpy()))

    def flush(self) -> torch.Tensor:
        """Return the samples that were still waiting for later input; then a new stream may start."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._stream is None:
            return torch.from_numpy(nothing)
        tail = torch.from_numpy(self._stream.resample_chunk(nothing, last=True))
        self._stream.clear()
        return tail


def blocks(
    source: Source,
    *,
    sample_rate: int | None = None,
    block_seconds: float = 30.0,
    keep_damaged: bool = False,
    track: Track = None,
) -> Generator[torch.Tensor, None, None]:
    """Read a source from start to end in flat memory.

    Args:
        source: a path, "-" for standard input, a binary file object, or an array or tensor: `(samples,)`, or
            two-dimensional with its shorter side (the first, where both are equal) the channels. Arrays hold floats, or
            int8, int16, int32 or uint8, which are scaled to [-1, 1]. Channels are mixed by `asr.audio.pcm.Downmix`.
        sample_rate: of an array, in Hz; files have their own.
        block_seconds: approximate length of a block; less if there are many channels.
        keep_damaged: decode even a file whose header already shows that it is cut short, before raising the error.
        track: audio track of a file: its number from 1 on, or its language; None: the English one if there is one, else
            the file's default.

    Yields:
        16 kHz mono float32 tensors `(samples,)`, none empty. Very quiet speech is amplified and floats in an
        integer range are rescaled, see `asr.audio.level`; other samples are unchanged, even beyond ±1. If a file has a
        clock, sample n is at n / 16000 s of it: gaps are filled with silence.

    Raises:
        AudioError: the source is missing, not readable, not audio, empty or cut short, holds NaN or infinity, or has a
            rate out of bounds.
        ConfigError: `block_seconds` is not positive.
    """
    require(block_seconds > 0, "block_seconds", block_seconds, "positive")
    name = source_name(source)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        chunks = _array_chunks(source, sample_rate, name, block_seconds)
    elif sample_rate is not None:
        raise AudioError(name, "has its own sample rate: sample_rate is for arrays only")
    else:
        chunks = file_chunks(source, name, block_seconds, keep_damaged, track)

    empty = True
    with contextlib.closing(chunks):  # an early end of this generator ends the decoder too
        for samples in _levelled(_at_16_khz(chunks, name), name):
            if len(samples):
                empty = False
                yield torch.from_numpy(samples)
    if empty:
        raise AudioError(name, "holds no samples")


def load(source: Source, *, sample_rate: int | None = None) -> torch.Tensor:
    """Read a whole source: the concatenation of its `blocks`, `(samples,)`; raises the same errors."""
    return torch.cat(list(blocks(source, sample_rate=sample_rate)))


def source_name(source: object) -> str:
    """The source's name as users know it."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, torch.Tensor):
        return "tensor"
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if source == "-" else os.fsdecode(source)
    if isinstance(source, io.TextIOBase):
        raise AudioError(getattr(source, "name", "stream"), "is open as text: open it in binary mode")
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return name if isinstance(name, str) else "stream"
    raise AudioError(type(source).__name__, "is not a path, an array, a tensor or a binary file object")


def _levelled(waveform: Iterable[torch.Tensor], name: str) -> Iterator[NDArray[np.float32]]:
    """Bring the level into the usual range; held samples are yielded before an error."""
    level = LevelCorrector(name)
    try:
        for samples in waveform:
            yield from level.step(samples.numpy())
    except AudioError:
        yield from level.flush()
        raise
    yield from level.flush()


def _at_16_khz(chunks: Iterable[Chunk], name: str) -> Iterator[torch.Tensor]:
    """Mix the channels and resample; some of the tensors may be empty. Held samples are yielded before an error."""
    stage: _Stage | None = None
    seconds = 0.0
    try:
        for chunk in chunks:
            if stage is not None and not stage.fits(chunk):  # the next of several joined streams
                yield from stage.flush()
                stage = None
            stage = stage or _Stage(chunk, name)
            yield stage.step(_finite(chunk, seconds, name))
            seconds += len(chunk.values) / chunk.sample_rate
    except AudioError:
        if stage is not None:
            yield from stage.flush()
        raise
    if stage is not None:
        yield from stage.flush()


class _Stage:
    """Downmix and resampler of chunks of one rate and one number of channels."""

    def __init__(self, first: Chunk, name: str) -> None:
        self._rate, self._channels = first.sample_rate, first.values.shape[1]
        self._resampler = Resampler(self._rate, name)
        self._downmix, self._state = Downmix(self._rate, self._channels), DownmixState.start(self._channels)

    def fits(self, chunk: Chunk) -> bool:
        return chunk.sample_rate == self._rate and chunk.values.shape[1] == self._channels

    def step(self, values: NDArray[np.float32]) -> torch.Tensor:
        mono, self._state = self._downmix.step(values, self._state)
        return self._resampler.step(torch.from_numpy(mono))

    def flush(self) -> Iterator[torch.Tensor]:
        yield self._resampler.step(torch.from_numpy(self._downmix.flush(self._state)))
        yield self._resampler.flush()


def _check_rate(rate: object, source: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise AudioError(source, f"its sample_rate is {rate!r}: it must be a number in Hz")
    if not MIN_SAMPLE_RATE <= float(rate) <= MAX_SAMPLE_RATE:
        bounds = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise AudioError(source, f"its sample rate is {rate} Hz: it must be {bounds}")


def _finite(chunk: Chunk, start_seconds: float, name: str) -> NDArray[np.float32]:
    """The samples of a chunk as floats, `(frames, channels)`; an AudioError names the first that is not finite."""
    try:
        values = to_float(chunk.values)
    except TypeError as error:
        raise AudioError(name, str(error)) from None
    if np.isfinite(values).all():
        return values
    is_bad = ~np.isfinite(values).all(axis=1)
    seconds = start_seconds + int(is_bad.argmax()) / chunk.sample_rate
    others = int(is_bad.sum()) - 1
    more = f", and {others} more soon after" if others else ""
    raise AudioError(name, f"the sample at {seconds:.3f} s is NaN or infinite{more}")


def _array_chunks(
    source: NDArray[Any] | torch.Tensor, rate: int | None, name: str, block_seconds: float
) -> Generator[Chunk, None, None]:
    if rate is None:
        raise AudioError(name, "needs its sample_rate")
    _check_rate(rate, name)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if source.ndim not in (1, 2):
        raise AudioError(name, f"its shape is {tuple(source.shape)}: it must have one or two dimensions")
    if source.size == 0:
        return
    source = _narrowed(source, name)
    if source.ndim == 1:
        values = source[:, None]
    else:
        values = source if source.shape[1] < source.shape[0] else source.T
    frames = chunk_frames(rate, values.shape[1], block_seconds)
    for start in range(0, len(values), frames):
        yield Chunk(rate, values[start : start + frames])


def _narrowed(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Treat int32 samples that all fit int16 as int16: full scale of int32 would be 96 dB above them."""
    if array.dtype != np.int32 or not 0 < max(-int(array.min()), int(array.max())) <= 1 << 15:
        return array
    _LOG.warning("%s: its int32 samples are within ±32768: they are read as int16", name)
    narrow: NDArray[Any] = np.clip(array, -(1 << 15), (1 << 15) - 1).astype(np.int16)
    return narrow
