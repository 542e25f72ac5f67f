"""The part of the service that runs in the engine's thread: sessions, resamplers, steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from asr.audio import SAMPLE_RATE
from streaming.engine import Engine
from streaming.events import Event
from streaming.pool import SessionPool
from streaming.server.config import ServerLimits
from streaming.server.stream import Order, Status, Stream

__all__ = ["EngineSide"]


class EngineSide:
    """The sessions of the streams. `turn` and `busy` must not run at the same time."""

    def __init__(self, engine: Engine, limits: ServerLimits) -> None:
        # A client may send a chunk as one message: in two steps, it would take twice as long.
        step_seconds = min(limits.max_behind_seconds, max(0.32, engine.chunk_samples / SAMPLE_RATE))
        self._pool = SessionPool(engine, limits.max_sessions, limits.max_behind_seconds, step_seconds)
        self._streams: dict[int, Stream] = {}

    @property
    def busy(self) -> bool:
        """Whether a turn without orders would do anything."""
        return self._pool.busy

    def turn(self, orders: Sequence[Order], dropped: Sequence[Stream]) -> dict[Stream, Status]:
        """Drop streams, carry out the orders, step all sessions, and return the status of each stream."""
        for stream in dropped:
            self._drop(stream)
        for order in orders:
            self._take(order)
        pool, streams = self._pool, self._streams
        waited = {i: (pool.behind_seconds(i), pool.dropped_seconds(i)) for i in streams}
        events: dict[int, list[Event]] = defaultdict(list)
        for session_id, event in pool.step():
            events[session_id].append(event)
        statuses = {}
        for session_id, stream in list(streams.items()):
            before, dropped_seconds = waited[session_id]
            done = session_id not in pool
            waiting = 0.0 if done else pool.behind_seconds(session_id)
            flushing = not done and pool.flushing(session_id)
            said = tuple(events[session_id])
            statuses[stream] = Status(said, waiting, before - waiting, dropped_seconds, flushing, done)
            if done:
                del streams[session_id]
        return statuses

    def _take(self, order: Order) -> None:
        stream, pool = order.stream, self._pool
        if stream.session_id is None:
            stream.session_id = pool.open(stream.hotwords, stream.style)
            self._streams[stream.session_id] = stream
        for chunk in order.chunks:
            pool.push(stream.session_id, stream.resampler.step(chunk))
        if order.flush or order.finish:
            pool.push(stream.session_id, stream.resampler.flush())
        if order.finish:
            pool.close(stream.session_id)
        elif order.flush:
            pool.flush(stream.session_id)

    def _drop(self, stream: Stream) -> None:
        # Compare streams, not ids: after a fault, a stream of the previous pool may have had the same id.
        if stream.session_id is not None and self._streams.get(stream.session_id) is stream:
            del self._streams[stream.session_id]
            self._pool.close(stream.session_id, discard=True)
