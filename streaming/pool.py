"""Streams that come and go while an engine steps them as one batch: admission, and what happens when it falls behind.

There are no threads here: a server pushes what arrives and calls `step` as often as it can, and must not do two of
these at once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.config import require
from asr.errors import SpellstreamError
from streaming.engine import Engine
from streaming.events import Event
from streaming.session import Session, check_chunk

__all__ = ["PoolFullError", "SessionPool"]


class PoolFullError(SpellstreamError):
    """There are as many sessions as are allowed; one has to end before another may begin."""


@dataclass
class _Stream:
    """A session and what it has not heard yet."""

    session: Session
    waiting: deque[Tensor] = field(default_factory=deque)
    waiting_samples: int = 0
    gap_samples: int = 0  # dropped since the session was stepped last: between what it has heard and what waits
    dropped_samples: int = 0
    flushing: bool = False
    closing: bool = False

    @property
    def ending(self) -> bool:
        """Whether what is open is finished with the last that waits."""
        return self.closing or self.flushing

    def put(self, waveform: Tensor, bound: int) -> None:
        """Append a copy; the oldest samples beyond the bound give way."""
        kept = waveform[max(0, len(waveform) - bound) :]
        gone = max(0, self.waiting_samples + len(kept) - bound)
        self.take(gone)
        gone += len(waveform) - len(kept)
        self.waiting.append(kept.clone())
        self.waiting_samples += len(kept)
        self.gap_samples += gone
        self.dropped_samples += gone

    def take(self, samples: int) -> Tensor:
        """The oldest samples, at most so many."""
        taken: list[Tensor] = []
        while samples > 0 and self.waiting:
            chunk = self.waiting.popleft()
            if len(chunk) > samples:
                self.waiting.appendleft(chunk[samples:])
                chunk = chunk[:samples]
            taken.append(chunk)
            samples -= len(chunk)
            self.waiting_samples -= len(chunk)
        return torch.cat(taken) if taken else torch.zeros(0)


class SessionPool:
    """Admits, buffers, steps and retires sessions.

    Args:
        engine: steps them.
        max_sessions: how many there may be at once; those that are being closed count until they are done.
        max_behind_seconds: how much of a session's audio may wait. Beyond that the oldest is dropped and counted; the
            segment in which it is missing ends there, and the stream's clock goes on as if it had been heard.
        step_seconds: how much of a session's audio a step takes at the most, so that none makes the others wait.
    """

    def __init__(
        self, engine: Engine, max_sessions: int, max_behind_seconds: float = 10.0, step_seconds: float = 0.32
    ) -> None:
        require(max_sessions > 0, "max_sessions", max_sessions, "positive")
        require(step_seconds * SAMPLE_RATE >= 1, "step_seconds", step_seconds, "a sample or more")
        require(max_behind_seconds >= step_seconds, "max_behind_seconds", max_behind_seconds, "at least step_seconds")
        self.engine, self.max_sessions = engine, max_sessions
        self._bound, self._step = (round(s * SAMPLE_RATE) for s in (max_behind_seconds, step_seconds))
        self._streams: dict[int, _Stream] = {}
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, session_id: int) -> bool:
        """Whether more events of it may come."""
        return session_id in self._streams

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return any(s.waiting_samples or s.gap_samples or s.ending for s in self._streams.values())

    def open(self) -> int:
        """Admit a stream; its id, which is never used again.

        Raises:
            PoolFullError: if there is no room.
        """
        if len(self._streams) >= self.max_sessions:
            raise PoolFullError(f"{len(self._streams)} sessions are open: the bound is {self.max_sessions}")
        session_id = next(self._ids)
        self._streams[session_id] = _Stream(self.engine.start())
        return session_id

    def push(self, session_id: int, waveform: Tensor) -> int:
        """Append 16 kHz mono float32 `(samples,)`, which is copied; how many samples had to be dropped for it.

        Raises:
            AudioError: if it is of another kind, or a sample in it is NaN or infinite. The session can go on.
            SpellstreamError: if there is no such session, or it is being closed.
        """
        stream = self._stream(session_id)
        if stream.closing:
            raise SpellstreamError(f"session {session_id} is being closed: it takes no more audio")
        check_chunk(waveform, f"session {session_id}")
        before = stream.dropped_samples
        stream.put(waveform, self._bound)
        return stream.dropped_samples - before

    def step(self) -> list[tuple[int, Event]]:
        """Advance all sessions that have something to hear or are being closed; what they say, each in order."""
        gaps = {i: s for i, s in self._streams.items() if s.gap_samples}
        events = self._advance(gaps, lambda s: torch.zeros(0), lambda s: True)
        for stream in gaps.values():
            stream.session = stream.session.skip(stream.gap_samples)
            stream.gap_samples = 0
        ready = {i: s for i, s in self._streams.items() if s.waiting_samples or s.ending}
        events += self._advance(ready, lambda s: s.take(self._step), lambda s: s.ending and not s.waiting_samples)
        for session_id, stream in ready.items():
            if stream.waiting_samples:
                continue
            stream.flushing = False
            if stream.closing:
                del self._streams[session_id]
        return events

    def flush(self, session_id: int) -> None:
        """The next steps hear what waits and finish what is open then; the stream goes on with what is pushed later.

        Raises:
            SpellstreamError: if there is no such session.
        """
        self._stream(session_id).flushing = True

    def close(self, session_id: int, discard: bool = False) -> None:
        """The stream ends: the next steps hear what waits, finish what is open and forget it; at once if `discard`.

        Raises:
            SpellstreamError: if there is no such session.
        """
        self._stream(session_id).closing = True
        if discard:
            del self._streams[session_id]

    def flushing(self, session_id: int) -> bool:
        """Whether what `flush` asked for is still to be done."""
        return self._stream(session_id).flushing

    def behind_seconds(self, session_id: int) -> float:
        """How much of a session's audio waits."""
        return self._stream(session_id).waiting_samples / SAMPLE_RATE

    def dropped_seconds(self, session_id: int) -> float:
        """How much of a session's audio was dropped so far."""
        return self._stream(session_id).dropped_samples / SAMPLE_RATE

    def _stream(self, session_id: int) -> _Stream:
        if session_id not in self._streams:
            raise SpellstreamError(f"session {session_id}: there is none, or it is closed")
        return self._streams[session_id]

    def _advance(
        self, streams: dict[int, _Stream], chunk: Callable[[_Stream], Tensor], final: Callable[[_Stream], bool]
    ) -> list[tuple[int, Event]]:
        """One engine step; `final` is asked after `chunk` has been taken."""
        if not streams:
            return []
        chunks = [chunk(s) for s in streams.values()]
        ends = [final(s) for s in streams.values()]
        sessions, events = self.engine.step([s.session for s in streams.values()], chunks, ends)
        for stream, session in zip(streams.values(), sessions, strict=True):
            stream.session = session
        return [(i, event) for i, found in zip(streams, events, strict=True) for event in found]
