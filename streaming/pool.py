"""Streams that come and go while an engine steps them as one batch: admission, buffers, dropping of overdue audio.

There are no threads here: a server pushes the audio that arrives and calls `step` as often as it can. Calls must not
overlap.
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
from asr.writing.hotwords import HotwordList
from asr.writing.parts import Style
from streaming.engine import Engine
from streaming.events import Event
from streaming.session import Session, check_chunk

__all__ = ["PoolFullError", "SessionPool"]


class PoolFullError(SpellstreamError):
    """The maximum number of sessions is open."""


@dataclass
class _Stream:
    """A session and its audio that still waits."""

    session: Session
    waiting: deque[Tensor] = field(default_factory=deque)
    waiting_samples: int = 0
    gap_samples: int = 0  # dropped since the last step: between the audio that was heard and the audio that waits
    dropped_samples: int = 0
    flushing: bool = False
    closing: bool = False

    @property
    def ending(self) -> bool:
        """Whether the open segment ends with the last audio that waits."""
        return self.closing or self.flushing

    def put(self, waveform: Tensor, bound: int) -> None:
        """Append a copy; the oldest samples beyond the bound are dropped."""
        kept = waveform[max(0, len(waveform) - bound) :]
        gone = max(0, self.waiting_samples + len(kept) - bound)
        self.take(gone)
        gone += len(waveform) - len(kept)
        self.waiting.append(kept.clone())
        self.waiting_samples += len(kept)
        self.gap_samples += gone
        self.dropped_samples += gone

    def take(self, samples: int) -> Tensor:
        """Remove the oldest samples, at most this many."""
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
        engine: steps the sessions.
        max_sessions: maximum number of sessions, including those that are still closing.
        max_behind_seconds: maximum length of a session's waiting audio. Beyond it the oldest is dropped and counted;
            the open segment ends at the gap, and the stream's clock goes on as if the audio had been heard.
        step_seconds: maximum length of a session's audio in one step, so that no session delays the others.
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
        """Whether the session is open or still closing, so that more events may come."""
        return session_id in self._streams

    @property
    def busy(self) -> bool:
        """Whether there is work for a step."""
        return any(s.waiting_samples or s.gap_samples or s.ending for s in self._streams.values())

    def open(self, hotwords: HotwordList = None, style: Style | None = None) -> int:
        """Admit a stream, perhaps with hotwords and a style of its own, and return its id, which is never used again.

        Raises:
            ConfigError: a hotword is wrong, or has characters that the model cannot spell.
            PoolFullError: `max_sessions` are open.
        """
        if len(self._streams) >= self.max_sessions:
            raise PoolFullError(f"{len(self._streams)} sessions are open: the maximum is {self.max_sessions}")
        session_id = next(self._ids)
        self._streams[session_id] = _Stream(self.engine.start(hotwords, style))
        return session_id

    def push(self, session_id: int, waveform: Tensor) -> int:
        """Append 16 kHz mono float32 `(samples,)`, which is copied; return the number of samples dropped for it.

        Raises:
            AudioError: it is of another type, or a sample is NaN or infinite. The session is unchanged.
            SpellstreamError: there is no such session, or it is closing.
        """
        stream = self._stream(session_id)
        if stream.closing:
            raise SpellstreamError(f"session {session_id} is closing: it takes no more audio")
        check_chunk(waveform, f"session {session_id}")
        before = stream.dropped_samples
        stream.put(waveform, self._bound)
        return stream.dropped_samples - before

    def step(self) -> list[tuple[int, Event]]:
        """Advance all sessions that have audio or are closing; return ids with events, each session's in order."""
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
        """Finish the open segment with the audio that waits, in the next steps; the stream goes on afterwards.

        Raises:
            SpellstreamError: there is no such session.
        """
        self._stream(session_id).flushing = True

    def close(self, session_id: int, discard: bool = False) -> None:
        """End the stream: the next steps recognise the audio that waits, finish the open segment, and remove it.

        Args:
            session_id: the session.
            discard: remove it at once, without further events.

        Raises:
            SpellstreamError: there is no such session.
        """
        self._stream(session_id).closing = True
        if discard:
            del self._streams[session_id]

    def flushing(self, session_id: int) -> bool:
        """Whether a `flush` is still under way."""
        return self._stream(session_id).flushing

    def behind_seconds(self, session_id: int) -> float:
        """Audio of a session that waits, in seconds."""
        return self._stream(session_id).waiting_samples / SAMPLE_RATE

    def dropped_seconds(self, session_id: int) -> float:
        """Audio of a session that was dropped so far, in seconds."""
        return self._stream(session_id).dropped_samples / SAMPLE_RATE

    def _stream(self, session_id: int) -> _Stream:
        if session_id not in self._streams:
            raise SpellstreamError(f"session {session_id}: no such session, or it is closed")
        return self._streams[session_id]

    def _advance(
        self, streams: dict[int, _Stream], chunk: Callable[[_Stream], Tensor], final: Callable[[_Stream], bool]
    ) -> list[tuple[int, Event]]:
        """One engine step; `final` is called after `chunk`."""
        if not streams:
            return []
        chunks = [chunk(s) for s in streams.values()]
        ends = [final(s) for s in streams.values()]
        sessions, events = self.engine.step([s.session for s in streams.values()], chunks, ends)
        for stream, session in zip(streams.values(), sessions, strict=True):
            stream.session = session
        return [(i, event) for i, found in zip(streams, events, strict=True) for event in found]
