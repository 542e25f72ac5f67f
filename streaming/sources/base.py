"""The interface of sources of live audio, and their common part."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Protocol, TypeVar

import torch

from asr.audio import SAMPLE_RATE
from asr.errors import AudioError
from streaming.sources.ring_buffer import Signal

__all__ = ["SILENCE_DBFS", "AudioSource", "BaseSource", "level_dbfs"]

SILENCE_DBFS = -120.0  # the level of digital silence, and the lowest there is

SourceT = TypeVar("SourceT", bound="BaseSource")


class AudioSource(Protocol):
    """A source of live audio. Iterating over it yields 16 kHz mono float32 tensors `(samples,)`, none of them empty.

    Any object with these members can be passed to `streaming.listen`; `Microphone`, `FileReplay` and `StandardInput`
    are included.
    """

    @property
    def name(self) -> str:
        """Name for messages, as users know it."""

    @property
    def level(self) -> float:
        """RMS level of the latest chunk in dBFS, from `SILENCE_DBFS` to about 0."""

    @property
    def dropped_seconds(self) -> float:
        """Audio that was dropped because it was not read in time, in seconds."""

    def __iter__(self) -> Iterator[torch.Tensor]: ...

    def stop(self) -> None:
        """End the stream, from any thread or signal handler. Audio from before is still delivered."""

    def close(self) -> None:
        """Stop, and release the device or file. May be called more than once."""

    def __enter__(self) -> AudioSource: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def level_dbfs(chunk: torch.Tensor) -> float:
    """The RMS level of `(samples,)` in dBFS; NaN or infinite if a sample is."""
    power = float(chunk.double().square().mean())
    return power if not math.isfinite(power) else 10 * math.log10(max(power, 10 ** (SILENCE_DBFS / 10)))


class BaseSource(ABC):
    """The common part of sources; each adds `_chunks`, whose tensors may be empty."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._level = SILENCE_DBFS
        self._delivered = 0
        self._stopping = False
        self._wake = Signal()

    @property
    def level(self) -> float:
        """RMS level of the latest chunk in dBFS."""
        return self._level

    @property
    def dropped_seconds(self) -> float:
        """Audio that was dropped because it was not read in time, in seconds."""
        return 0.0

    @property
    def lost_seconds(self) -> float:
        """Time without the device, in seconds; its audio is missing from the chunks."""
        return 0.0

    @property
    def overflows(self) -> int:
        """Number of times that the sound system dropped audio before it was captured."""
        return 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        with contextlib.closing(self._chunks()) as chunks:
            for chunk in chunks:
                if len(chunk) == 0:
                    continue
                level = level_dbfs(chunk)
                if not math.isfinite(level):
                    seconds = self._delivered / SAMPLE_RATE
                    raise AudioError(self.name, f"a sample soon after {seconds:.3f} s is NaN or infinite")
                self._level = level
                self._delivered += len(chunk)
                yield chunk

    @abstractmethod
    def _chunks(self) -> Generator[torch.Tensor, None, None]: ...

    def stop(self) -> None:
        """End the stream, from any thread or signal handler. Audio from before is still delivered."""
        self._stopping = True
        self._wake.send()

    def close(self) -> None:
        """Stop, and release the device or file. May be called more than once."""
        self.stop()

    def __enter__(self: SourceT) -> SourceT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
