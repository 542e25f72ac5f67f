"""A live source that replays a waveform, for tests of listening."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch

from streaming.sources.base import BaseSource

CHUNK_SAMPLES = 1_600


class Replay(BaseSource):
    """A waveform in chunks; `before` is called with the number of each chunk before it comes."""

    def __init__(self, waveform: torch.Tensor, before: Callable[[int], None] = lambda chunk: None) -> None:
        super().__init__("the replay")
        self.closed = False
        self.lost, self.gaps = 0.0, 0
        self._waveform, self._before = waveform, before

    @property
    def dropped_seconds(self) -> float:
        return self.lost

    @property
    def overflows(self) -> int:
        return self.gaps

    def _chunks(self) -> Generator[torch.Tensor, None, None]:
        for i, chunk in enumerate(self._waveform.split(CHUNK_SAMPLES)):
            self._before(i)
            if self._stopping:
                return
            yield chunk

    def close(self) -> None:
        super().close()
        self.closed = True
