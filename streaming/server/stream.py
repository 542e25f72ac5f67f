"""One client's stream, as seen from asyncio: audio goes in, events come out, and both are bounded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.audio import Resampler, pcm
from asr.errors import SpellstreamError
from streaming.events import Event, Final, Partial
from streaming.server.config import ServerLimits
from streaming.session import check_chunk

__all__ = ["LimitError", "Order", "Status", "Stream"]

_PIECE_SECONDS = 1.0  # whatever the length of a message, no more is handed over at a time


class LimitError(SpellstreamError):
    """A stream went beyond one of its bounds, or nobody read what it said: it is ended (close code 1008)."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True)
class Order:
    """What a stream wants done in the next step."""

    stream: Stream
    chunks: tuple[Tensor, ...]
    arrived: float | None  # when the oldest audio that waits came; None if it has waited since the step before
    flush: bool
    finish: bool


@dataclass(frozen=True)
class Status:
    """Where a stream stands after a step."""

    events: tuple[Event, ...]
    waiting_seconds: float
    heard_seconds: float  # in this step
    dropped_seconds: float
    flushing: bool
    done: bool


class Stream:
    """Made by `Service.stream`. One task may push while another one reads.

    Args:
        sample_rate: of what is pushed.
        kind: of client, as metrics and logs name it.
        live: when there is no room, drop the oldest audio rather than let the client wait.
        limits: its bounds.
        wake: is called when there is something to do for the engine.

    Raises:
        AudioError: if the sample rate is out of bounds.
    """

    def __init__(self, sample_rate: int, kind: str, live: bool, limits: ServerLimits, wake: Callable[[], None]) -> None:
        self.sample_rate, self.kind, self.live = sample_rate, kind, live
        self.resampler = Resampler(sample_rate, "stream")
        self.session_id: int | None = None  # the engine's thread gives it one with its first audio
        self.audio_seconds = self.dropped_seconds = 0.0
        self.segments = 0
        self.error: SpellstreamError | None = None
        self.done = False
        self._limits, self._wake = limits, wake
        self._inbox: list[Tensor] = []
        self._inbox_seconds = self._waiting_seconds = 0.0
        self._leftover = b""
        self._arrived: float | None = None
        self._flush = self._flushing = self._finish = self._finishing = False
        self._events: deque[Event] = deque()
        self._turned = asyncio.Event()

    # --- for clients --------------------------------------------------------------------------------------------------

    async def push(self, audio: bytes | Tensor) -> None:
        """Append mono audio at the stream's own rate, and wait while too much of it has not been heard.

        A live stream waits no longer than for the step that is under way.

        Args:
            audio: s16le, of which an odd byte waits for its other half; or float32 `(samples,)`.

        Raises:
            AudioError: if a tensor is of another kind, or holds NaN or infinity.
            LimitError: if the stream has become too long, or was dropped.
            SpellstreamError: if it is finished.
        """
        if self._finish:
            raise SpellstreamError("the stream is finished: it takes no more audio")
        if isinstance(audio, Tensor):
            check_chunk(audio, "stream")
            waveform = audio.clone()
        else:
            waveform = self._samples(audio)
        room = self._limits.max_behind_seconds / 2
        piece_seconds = min(_PIECE_SECONDS, room / 2)  # what is there and a piece fit: nothing is dropped unasked
        for piece in waveform.split(max(1, round(piece_seconds * self.sample_rate))):
            while self.error is None and self._inbox_seconds + (0 if self.live else self._waiting_seconds) > room:
                await self._turned.wait()
            self._check()
            self._put(piece)

    async def heard(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all that was pushed has been heard and its events are here; whether that was within the time."""

        async def settled() -> None:
            while self.pending and self.error is None:
                await self._turned.wait()

        try:
            await asyncio.wait_for(settled(), timeout_seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def flush(self) -> None:
        """Finish what is open once all is heard, its `Final` included; the stream goes on with what comes then."""
        self._flush = True
        self._wake()
        await self.heard()

    def finish(self) -> None:
        """There is no more audio: what is open is finished, then `events` ends."""
        self._finish = True
        self._wake()

    def take(self) -> list[Event]:
        """The events that are here and have not been read.

        Raises:
            SpellstreamError: if the stream was dropped, and there are none left.
        """
        if not self._events:
            self._check()
        events = list(self._events)
        self._events.clear()
        return events

    async def events(self) -> AsyncIterator[Event]:
        """Events in order until the stream is finished; of several partials that wait, the last.

        Raises:
            SpellstreamError: if the stream was dropped.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            self._check()
            if self.done:
                return
            await self._turned.wait()

    @property
    def pending(self) -> bool:
        """Whether anything of what was asked for is not done."""
        if self.done:
            return False
        return bool(self._inbox or self._waiting_seconds or self._flush or self._flushing or self._finish)

    # --- for the service ----------------------------------------------------------------------------------------------

    def order(self) -> Order | None:
        """What is to be done now, if anything; it counts as waiting until `turned` says otherwise."""
        finish = self._finish and not self._finishing
        if self.error is not None or not (self._inbox or self._flush or finish):
            return None
        arrived = None if self._waiting_seconds else self._arrived
        order = Order(self, tuple(self._inbox), arrived, self._flush, finish)
        self._waiting_seconds += self._inbox_seconds
        self._inbox, self._inbox_seconds, self._arrived = [], 0.0, None
        self._flushing, self._flush = self._flushing or self._flush, False
        self._finishing = self._finish
        return order

    def turned(self, status: Status) -> None:
        """A step was done."""
        self._waiting_seconds, self.dropped_seconds = status.waiting_seconds, status.dropped_seconds
        self._flushing, self.done = status.flushing, status.done
        for event in status.events:
            self._receive(event)
        self._notify()

    def fail(self, error: SpellstreamError) -> None:
        """Drop the stream: whoever waits for it is told why."""
        self.error = self.error or error
        self._notify()

    @property
    def waiting_seconds(self) -> float:
        """How much of its audio waits."""
        return self._inbox_seconds + self._waiting_seconds

    def _receive(self, event: Event) -> None:
        self.segments += isinstance(event, Final)
        if isinstance(event, Partial) and self._events and isinstance(self._events[-1], Partial):
            self._events[-1] = event
        elif len(self._events) < self._limits.max_events:
            self._events.append(event)
        else:
            self._events.clear()
            self.error = LimitError(f"nobody has read {self._limits.max_events} events", "max_events")

    def _samples(self, data: bytes) -> Tensor:
        frames, self._leftover = pcm.decode(self._leftover + data)
        return torch.from_numpy(frames[:, 0])

    def _put(self, piece: Tensor) -> None:
        if not len(piece):
            return
        seconds = len(piece) / self.sample_rate
        if self.audio_seconds + seconds > self._limits.max_stream_seconds:
            bound = f"{self._limits.max_stream_seconds:g} s"
            raise LimitError(f"the stream is longer than {bound}, which is as long as one may be", "max_stream_seconds")
        self.audio_seconds += seconds
        self._inbox.append(piece)
        self._inbox_seconds += seconds
        if self._arrived is None:
            self._arrived = time.monotonic()
        self._wake()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _notify(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()
