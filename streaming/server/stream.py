"""One client's stream in the event loop: audio goes in, events come out, and both queues are bounded."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.audio import Resampler, pcm
from asr.errors import SpellstreamError
from asr.writing.hotwords import Hotwords
from asr.writing.parts import Style
from streaming.events import Event, Final, Partial
from streaming.server.config import ServerLimits
from streaming.server.errors import LimitError
from streaming.session import check_chunk

__all__ = ["Opening", "Order", "Status", "Stream"]

_PIECE_SECONDS = 1.0  # longer messages are passed on in pieces
_IDS = itertools.count(1)


@dataclass(frozen=True)
class Opening:
    """What the engine must know of a new stream."""

    sample_rate: int  # in Hz
    hotwords: Hotwords | None
    style: Style | None  # None: that of the server


@dataclass(frozen=True)
class Order:
    """Work that a stream has for the next step; it may be sent to another process."""

    stream: int  # its id
    opening: Opening | None  # with the first order of a stream
    chunks: tuple[NDArray[np.float32], ...]
    arrived: float | None  # arrival of the oldest waiting audio; None if it was already waiting at the previous step
    flush: bool
    finish: bool


@dataclass(frozen=True)
class Status:
    """State of a stream after a step."""

    events: tuple[Event, ...]
    waiting_seconds: float
    heard_seconds: float  # in this step
    dropped_seconds: float
    flushing: bool
    done: bool


class Stream:
    """A client's stream, made by `Service.stream`. One task may push while another reads.

    Args:
        sample_rate: of the audio that is pushed, in Hz.
        kind: of client, for metrics and logs.
        live: drop the oldest audio if there is no room; otherwise the client has to wait.
        limits: the server's limits.
        wake: called when there is work for the engine.

    Raises:
        AudioError: the sample rate is out of bounds.
    """

    def __init__(self, sample_rate: int, kind: str, live: bool, limits: ServerLimits, wake: Callable[[], None]) -> None:
        Resampler(sample_rate, "stream")  # checks the rate; the one that is used is on the engine's side
        self.id = next(_IDS)
        self.sample_rate, self.kind, self.live = sample_rate, kind, live
        self.audio_seconds = self.dropped_seconds = 0.0
        self.segments = 0
        self.error: SpellstreamError | None = None
        self.done = False
        self.hotwords: Hotwords | None = None  # set, like the style, before the first order
        self.style: Style | None = None  # None: that of the server
        self._limits, self._wake = limits, wake
        self._inbox: list[Tensor] = []
        self._inbox_seconds = self._waiting_seconds = 0.0
        self._leftover = b""
        self._arrived: float | None = None
        self._opened = False  # on the engine's side
        self._flush = self._flushing = self._finish = self._finishing = False
        self._events: deque[Event] = deque()
        self._turned = asyncio.Event()

    # --- for clients --------------------------------------------------------------------------------------------------

    async def push(self, audio: bytes | Tensor) -> None:
        """Append mono audio; wait while too much audio is queued for the engine.

        A live stream waits for the current step at most.

        Args:
            audio: s16le bytes (an odd last byte is kept for the next call), or float32 `(samples,)`.

        Raises:
            AudioError: the tensor has another dtype or shape, or holds NaN or infinity.
            LimitError: the stream is too long, or was dropped.
            SpellstreamError: the stream is finished.
        """
        if self._finish:
            raise SpellstreamError("the stream is finished: it takes no more audio")
        if isinstance(audio, Tensor):
            check_chunk(audio, "stream")
            waveform = audio.clone()
        else:
            waveform = self._samples(audio)
        room = self._limits.max_behind_seconds / 2
        piece_seconds = min(
            _PIECE_SECONDS, room / 2
        )  # the waiting audio and a piece fit together, so nothing is dropped unnecessarily
        for piece in waveform.split(max(1, round(piece_seconds * self.sample_rate))):
            while self.error is None and self._inbox_seconds + (0 if self.live else self._waiting_seconds) > room:
                await self._turned.wait()
            self._check()
            self._put(piece)

    async def heard(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all pushed audio has been decoded and its events have arrived; False on timeout."""

        async def settled() -> None:
            while self.pending and self.error is None:
                await self._turned.wait()

        try:
            await asyncio.wait_for(settled(), timeout_seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def flush(self) -> None:
        """Decode the waiting audio and finish the open segment; the stream continues with later audio."""
        self._flush = True
        self._wake()
        await self.heard()

    def finish(self) -> None:
        """End the audio: the open segment is finished, then `events` ends."""
        self._finish = True
        self._wake()

    def take(self) -> list[Event]:
        """The unread events.

        Raises:
            SpellstreamError: the stream was dropped, and no events are left.
        """
        if not self._events:
            self._check()
        events = list(self._events)
        self._events.clear()
        return events

    async def events(self) -> AsyncIterator[Event]:
        """Events in order until the stream is finished; of several unread partials in a row, only the last.

        Raises:
            SpellstreamError: the stream was dropped.
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
        """Whether audio waits, or a flush or finish is not done."""
        if self.done:
            return False
        return bool(self._inbox or self._waiting_seconds or self._flush or self._flushing or self._finish)

    # --- for the service ----------------------------------------------------------------------------------------------

    def order(self) -> Order | None:
        """Take the work for the next step, if any; its audio counts as waiting until `turned`."""
        finish = self._finish and not self._finishing
        if self.error is not None or not (self._inbox or self._flush or finish):
            return None
        arrived = None if self._waiting_seconds else self._arrived
        opening = None if self._opened else Opening(self.sample_rate, self.hotwords, self.style)
        chunks = tuple(piece.numpy() for piece in self._inbox)
        order = Order(self.id, opening, chunks, arrived, self._flush, finish)
        self._opened = True
        self._waiting_seconds += self._inbox_seconds
        self._inbox, self._inbox_seconds, self._arrived = [], 0.0, None
        self._flushing, self._flush = self._flushing or self._flush, False
        self._finishing = self._finish
        return order

    def turned(self, status: Status) -> None:
        """Update from the status after a step."""
        self._waiting_seconds, self.dropped_seconds = status.waiting_seconds, status.dropped_seconds
        self._flushing, self.done = status.flushing, status.done
        for event in status.events:
            self._receive(event)
        self._notify()

    def fail(self, error: SpellstreamError) -> None:
        """Drop the stream: calls that wait for it raise the error."""
        self.error = self.error or error
        self._notify()

    @property
    def waiting_seconds(self) -> float:
        """Audio that waits for the engine."""
        return self._inbox_seconds + self._waiting_seconds

    def _receive(self, event: Event) -> None:
        self.segments += isinstance(event, Final)
        if isinstance(event, Partial) and self._events and isinstance(self._events[-1], Partial):
            self._events[-1] = event
        elif len(self._events) < self._limits.max_events:
            self._events.append(event)
        else:
            self._events.clear()
            self.error = LimitError(f"{self._limits.max_events} events are unread, which is the limit", "max_events")

    def _samples(self, data: bytes) -> Tensor:
        frames, self._leftover = pcm.decode(self._leftover + data)
        return torch.from_numpy(frames[:, 0])

    def _put(self, piece: Tensor) -> None:
        if not len(piece):
            return
        seconds = len(piece) / self.sample_rate
        if self.audio_seconds + seconds > self._limits.max_stream_seconds:
            bound = f"{self._limits.max_stream_seconds:g} s"
            raise LimitError(f"the stream is longer than {bound}, which is the limit", "max_stream_seconds")
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
