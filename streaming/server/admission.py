"""Admission of streams: whether there is room for another one, and the reason if not."""

from __future__ import annotations

import time

from asr.audio import SAMPLE_RATE
from streaming.engine import Engine
from streaming.server.config import ServerLimits
from streaming.server.errors import OverloadError
from streaming.server.load import MAX_USE, WINDOW_SECONDS
from streaming.server.stop import Stop
from streaming.server.worker import Worker
from streaming.server.workers import Workers

__all__ = ["Admission"]


class Admission:
    """Admits streams as long as the open ones keep up with real time.

    Args:
        engine: its chunk length bounds the latency.
        limits: the server's limits.
        workers: source of the load and of the engine's health.
        stop: state of an orderly stop.
    """

    def __init__(self, engine: Engine, limits: ServerLimits, workers: Workers, stop: Stop) -> None:
        self._limits, self._workers, self._stop = limits, workers, stop
        self._max_latency_seconds = limits.load_share * engine.chunk_samples / SAMPLE_RATE

    def stopping(self) -> OverloadError | None:
        """The reason why nothing new is accepted, if any."""
        if self._stop.requested.is_set():
            return OverloadError("the server is being stopped", "stopping")
        if self._workers.started and not self._workers.healthy:
            return OverloadError("the engine has failed: the server is being stopped", "stopping")
        return None

    def refusal(self) -> OverloadError | None:
        """The reason why no stream can be opened now, if any."""
        try:
            self.place()
        except OverloadError as refusal:
            return refusal
        return None

    def place(self) -> Worker:
        """The worker for another stream: of those with room, the one with the fewest streams.

        Raises:
            OverloadError: there is no room.
        """
        if stopping := self.stopping():
            raise stopping
        if (count := self._workers.streams) >= self._limits.max_sessions:
            raise OverloadError(f"{count} streams are open, which is the limit", "sessions")
        # Measurements older than the window say nothing.
        awake = [worker for worker in self._workers if worker.busy_seconds <= WINDOW_SECONDS]
        if not awake:
            raise OverloadError("the server is busy: one step takes very long", "load")
        now = time.monotonic()
        if not (roomy := [worker for worker in awake if self._has_room(worker, now)]):
            raise OverloadError("the server is busy: another stream would delay those that are open", "load")
        return min(roomy, key=lambda worker: len(worker.streams))

    def _has_room(self, worker: Worker, now: float) -> bool:
        # A load_share above MAX_USE also raises the limit on the engine's use.
        max_use = max(MAX_USE, self._limits.load_share)
        return worker.load.has_room(now, worker.streams.values(), self._max_latency_seconds, max_use)
