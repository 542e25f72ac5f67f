"""Admission of streams: whether there is room for another one, and the reason if not."""

from __future__ import annotations

import time
from collections.abc import Mapping

from asr.audio import SAMPLE_RATE
from streaming.engine import Engine
from streaming.server.config import ServerLimits
from streaming.server.errors import OverloadError
from streaming.server.load import MAX_USE, WINDOW_SECONDS
from streaming.server.stop import Stop
from streaming.server.stream import Stream
from streaming.server.worker import Worker

__all__ = ["Admission"]


class Admission:
    """Admits streams as long as the open ones keep up with real time.

    Args:
        engine: its chunk length bounds the latency.
        limits: the server's limits.
        streams: the open streams with their opening times, maintained by the service.
        worker: source of the load and of the engine's health.
        stop: state of an orderly stop.
    """

    def __init__(
        self, engine: Engine, limits: ServerLimits, streams: Mapping[Stream, float], worker: Worker, stop: Stop
    ) -> None:
        self._limits, self._streams, self._worker, self._stop = limits, streams, worker, stop
        self._max_latency_seconds = limits.load_share * engine.chunk_samples / SAMPLE_RATE

    def stopping(self) -> OverloadError | None:
        """The reason why nothing new is accepted, if any."""
        if self._stop.requested.is_set():
            return OverloadError("the server is being stopped", "stopping")
        if self._worker.started and not self._worker.healthy:
            return OverloadError("the engine has failed: the server is being stopped", "stopping")
        return None

    def refusal(self) -> OverloadError | None:
        """The reason why no stream can be opened now, if any."""
        if stopping := self.stopping():
            return stopping
        if (count := len(self._streams)) >= self._limits.max_sessions:
            return OverloadError(f"{count} streams are open, which is the limit", "sessions")
        if self._worker.thread.busy_seconds > WINDOW_SECONDS:  # the measurements are older than the window
            return OverloadError("the server is busy: one step takes very long", "load")
        # A load_share above MAX_USE also raises the limit on the engine's use.
        max_use = max(MAX_USE, self._limits.load_share)
        load, opened = self._worker.load, self._streams.values()
        if not load.has_room(time.monotonic(), opened, self._max_latency_seconds, max_use):
            return OverloadError("the server is busy: another stream would delay those that are open", "load")
        return None
