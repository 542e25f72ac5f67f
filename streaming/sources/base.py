"""What every source of live audio has in common."""

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
    """Something to listen to: iterate over it for 16 kHz mono float32 tensors `(samples,)`, none empty."""

    @property
    def name(self) -> str:
        """What the user would call it."""

    @property
    def level(self) -> float:
        """How loud the latest chunk was: RMS in dB below full scale, `SILENCE_DBFS` to about 0."""

    @property
    def dropped_seconds(self) -> float:
        """How much was dropped because it was not read in time."""

    def __iter__(self) -> Iterator[torch.Tensor]: ...

    def stop(self) -> None:
        """Ask for the end, from any thread or signal handler: what came before it is still delivered."""

    def close(self) -> None:
        """Stop, and give back what the source holds; more than once does no harm."""

    def __enter__(self) -> AudioSource: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def level_dbfs(chunk: torch.Tensor) -> float:
    """The RMS of `(samples,)` in dB below full scale; NaN or infinite where a sample is."""
    power = float(chunk.double().square().mean())
    return power if not math.isfinite(power) else 10 * math.log10(max(power, 10 ** (SILENCE_DBFS / 10)))


class BaseSource(ABC):
    """What all sources have in common; each adds `_chunks`, whose tensors may be empty."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._level = SILENCE_DBFS
        self._delivered = 0
        self._stopping = False
        self._wake = Signal()

    @property
    def level(self) -> float:
        return self._level

    @property
    def dropped_seconds(self) -> float:
        return 0.0

    @property
    def lost_seconds(self) -> float:
        """For how long there was nothing to listen to, all in all; what was said meanwhile is in no chunk."""
        return 0.0

    @property
    def overflows(self) -> int:
        """How often the system dropped audio before it got here."""
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
        self._stopping = True
        self._wake.send()

    def close(self) -> None:
        self.stop()

    def __enter__(self: SourceT) -> SourceT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
