"""One engine for all clients: streams are opened from asyncio and stepped together in one thread.

The thread runs one turn at a time and nothing in between: it takes what the streams have been given since the last one,
steps them all, and hands their events back. All else happens in the event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from asr.audio import SAMPLE_RATE
from asr.errors import SpellstreamError
from streaming.engine import Engine
from streaming.events import Final
from streaming.server.config import ServerConfig
from streaming.server.connections import Connections
from streaming.server.engine_side import EngineSide
from streaming.server.load import MAX_USE, WINDOW_SECONDS, Load, Turn, warm_up
from streaming.server.logs import note
from streaming.server.metrics import Metrics
from streaming.server.stream import LimitError, Status, Stream

__all__ = ["LimitError", "OverloadError", "Service", "Stream"]

T = TypeVar("T")
_MAX_FAULTS = 3
_MAX_TURN_SECONDS = 60.0  # nothing that the engine's thread does takes so long: it hangs
_LAST_TURN_SECONDS = 3.0  # that a stop waits for what the thread is at
_GRACE_SHARE = 0.7  # of the time that a server has to stop; in the rest, clients are told
_LOG = logging.getLogger(__name__)


class OverloadError(SpellstreamError):
    """There is no room for another stream or request now: 503, or close code 1013.

    Args:
        message: why.
        reason: the same in a word, for metrics.
    """

    retry_after_seconds = 3

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Service:
    """The engine, its streams, and the thread in which they are stepped.

    Args:
        engine: is used by nobody else from now on.
        config: the server's settings.
    """

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine, self.config, self.limits = engine, config, config.limits
        self.recogniser = engine.recogniser
        self.metrics = Metrics()
        self.draining = asyncio.Event()  # the server is being stopped: nothing new, and what is open is finished
        self.connections = Connections(config.limits.max_connections, self.metrics)
        self._streams: dict[Stream, float] = {}  # since when each is open
        self._dropped: list[Stream] = []  # not finished, but nobody waits for more
        self._engine_side = EngineSide(engine, config.limits)
        self._jobs: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._thread = ThreadPoolExecutor(1, "spellstream-engine")
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._load = Load()
        self._turn_started = self._draining_since = 0.0
        self._at_work_since: float | None = None  # what the thread is at; set by the thread itself
        self._talks = 0
        self._failed_turns = self._failed_trials = 0  # in a row, each of its kind
        self._worker: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Step the streams while this is open."""
        await self._in_thread(warm_up, self.engine)
        self._worker = asyncio.create_task(self._work(), name="spellstream-worker")
        try:
            yield
        finally:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
            self._thread.shutdown(wait=False, cancel_futures=True)  # to wait would be for ever, if the thread hangs
            for future, _ in self._jobs:
                future.cancel()
            until = time.monotonic() + _LAST_TURN_SECONDS
            while self.at_work_seconds and time.monotonic() < until:
                await asyncio.sleep(0.01)

    async def drain(self) -> None:
        """Take nothing new, tell all streams to finish, and wait until they have, and their clients know."""
        self._draining_since = time.monotonic()
        self.draining.set()
        await self._idle.wait()

    async def before_stop(self, work: Awaitable[T]) -> T:
        """The result of `work`, unless the server is being stopped and most of its time of grace is over before that.

        Raises:
            OverloadError: it is; the work is cancelled.
        """
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._last_call())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise OverloadError("the server is being stopped: send the file again", "stopping")
            return working.result()
        finally:
            working.cancel()
            stopping.cancel()

    async def _last_call(self) -> None:
        await self.draining.wait()
        await asyncio.sleep(self._draining_since + _GRACE_SHARE * self.config.grace_seconds - time.monotonic())

    def stopping(self) -> OverloadError | None:
        """Why nothing new is taken any more, if so."""
        if self.draining.is_set():
            return OverloadError("the server is being stopped", "stopping")
        if self._worker is not None and not self.healthy:
            return OverloadError("the engine has failed: the server is being stopped", "stopping")
        return None

    def refusal(self) -> OverloadError | None:
        """Why no stream can be opened now, if so."""
        if stopping := self.stopping():
            return stopping
        if len(self._streams) >= self.limits.max_sessions:
            return OverloadError(f"{len(self._streams)} streams are open, and that is all there may be", "sessions")
        if self.at_work_seconds > WINDOW_SECONDS:  # what was measured is of the time before
            return OverloadError("the server is busy: it has been at one step for long", "load")
        share = self.limits.load_share
        bound = share * self.engine.chunk_samples / SAMPLE_RATE
        # Whoever lets words come later than a chunk lets the engine fall behind by as much.
        if not self._load.has_room(time.monotonic(), self._streams.values(), bound, max(MAX_USE, share)):
            return OverloadError("the server is busy: another stream would delay those that are open", "load")
        return None

    def check_room(self) -> None:
        """Turn a stream away, and count it, unless there is room.

        Raises:
            OverloadError: there is none.
        """
        if refusal := self.refusal():
            self.metrics.refused.labels(refusal.reason).inc()
            raise refusal

    @contextmanager
    def talk(self) -> Iterator[None]:
        """A client is being talked to: `drain` waits until it has been told whatever is to be said at the end."""
        self._talks += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._talks -= 1
            if not self._talks:
                self._idle.set()

    @asynccontextmanager
    async def stream(
        self, sample_rate: int = 16_000, *, kind: str = "websocket", live: bool = False
    ) -> AsyncIterator[Stream]:
        """Open a stream. One that is not finished when this is left is forgotten at once, with what it has not heard.

        Args:
            sample_rate: of the audio that will come, in Hz.
            kind: of client, for metrics and logs.
            live: drop the oldest audio when the engine falls too far behind; otherwise the client has to wait.

        Raises:
            OverloadError: if there is no room.
            AudioError: if the sample rate is out of bounds.
        """
        stream = Stream(sample_rate, kind, live, self.limits, self._wake.set)
        self.check_room()
        self._streams[stream] = opened = time.monotonic()
        self.metrics.streams.labels(kind).inc()
        self.metrics.opened.labels(kind).inc()
        try:
            with self.talk():
                yield stream
        finally:
            self.metrics.streams.labels(kind).dec()
            del self._streams[stream]
            if not stream.done:
                self._dropped.append(stream)
                self._wake.set()
            if isinstance(stream.error, LimitError):
                self.metrics.cut.labels(stream.error.limit).inc()
            facts: dict[str, Any] = {"seconds": time.monotonic() - opened, "audio_seconds": stream.audio_seconds}
            facts |= {"segments": stream.segments, "dropped_seconds": stream.dropped_seconds, "finished": stream.done}
            note(_LOG, "stream closed", kind=kind, **facts)

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function that uses the model in the engine's thread, between two turns.

        Streams wait for as long as it takes, so it must be short. If the caller is cancelled before its turn, it is not
        run.

        Raises:
            OverloadError: the engine has failed.
        """
        if self._worker is None or self._worker.done():
            raise _failed()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((future, lambda: function(*args)))
        self.metrics.jobs.set(len(self._jobs))
        self._wake.set()
        return await future

    @property
    def healthy(self) -> bool:
        """Whether streams are being stepped; otherwise only a new start will help."""
        faults, hanging = max(self._failed_turns, self._failed_trials), self.at_work_seconds > _MAX_TURN_SECONDS
        return self._worker is not None and not self._worker.done() and faults < _MAX_FAULTS and not hanging

    @property
    def at_work_seconds(self) -> float:
        """For how long the engine's thread has been at one thing; 0 when it is idle."""
        since = self._at_work_since
        return 0.0 if since is None else time.monotonic() - since

    def update_metrics(self) -> None:
        """Bring up to date what is not counted as it happens."""
        self.metrics.queue_seconds.set(sum(stream.waiting_seconds for stream in self._streams))
        self.metrics.real_time_factor.set(self._load.real_time_factor(time.monotonic()))

    # --- the worker ---------------------------------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the engine's thread."""

        def timed() -> T:
            self._at_work_since = time.monotonic()
            try:
                return function(*args)
            finally:
                self._at_work_since = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    async def _work(self) -> None:
        try:
            while self.healthy:
                await self._wake.wait()
                self._wake.clear()
                if await self._turn():
                    self._wake.set()  # there may be more to do: look again, after whoever else wants the event loop
                if self.healthy:
                    await self._job()
        except Exception:
            _LOG.exception("a fault outside of a step: %d streams are dropped", len(self._streams))
            self.metrics.failures.inc()
        for stream in self._streams:
            stream.fail(SpellstreamError("the server has failed"))
        for future, _ in self._jobs:
            if not future.done():
                future.set_exception(_failed())

    async def _turn(self) -> bool:
        """Step the streams once; whether there was anything to do."""
        orders = [order for stream in self._streams if (order := stream.order())]
        dropped, self._dropped = self._dropped, []
        if not (orders or dropped or self._engine_side.busy):
            return False
        before, self._turn_started = self._turn_started, time.monotonic()
        try:
            statuses = await self._in_thread(self._engine_side.turn, orders, dropped)
        except Exception:
            self._start_afresh()
            return True
        if any(status.heard_seconds for status in statuses.values()):  # otherwise the engine may have had nothing to do
            self._failed_turns = 0
        self._measure(statuses, {order.stream: order.arrived or before for order in orders}, before)
        for stream, status in statuses.items():
            stream.turned(status)
            if stream.error is not None and not stream.done:
                self._dropped.append(stream)
        return True

    def _measure(self, statuses: Mapping[Stream, Status], arrived: Mapping[Stream, float], before: float) -> None:
        """Note how late each stream was; audio that waited longer than since the last turn's start was not due then."""
        now, heard = time.monotonic(), {stream: s for stream, s in statuses.items() if s.heard_seconds}
        latencies = tuple(now - arrived.get(stream, before) for stream in heard)
        taken, audio = now - self._turn_started, sum(status.heard_seconds for status in heard.values())
        self._load.heard(Turn(now, taken, audio, latencies, max(1, len(heard), len(self._streams))))
        self.metrics.step.observe(taken)
        for latency in latencies:
            self.metrics.latency.observe(latency)
        self.metrics.audio_seconds.inc(audio)
        self.metrics.compute_seconds.inc(taken)
        for stream, status in statuses.items():
            self.metrics.dropped_seconds.inc(status.dropped_seconds - stream.dropped_seconds)
            self.metrics.finals.inc(sum(isinstance(event, Final) for event in status.events))

    def _start_afresh(self) -> None:
        """A turn failed, for a fault that is not the clients': no state can be trusted, so all streams are dropped."""
        _LOG.exception("a step failed: %d streams are dropped", len(self._streams))
        self.metrics.failures.inc()
        self._failed_turns += 1
        self._engine_side = EngineSide(self.engine, self.limits)
        for stream in self._streams:
            stream.fail(SpellstreamError("the server failed to go on with this stream"))

    async def _job(self) -> None:
        """Run one of the functions that wait, if any."""
        if not self._jobs:
            return
        future, function = self._jobs.popleft()
        self.metrics.jobs.set(len(self._jobs))
        if self._jobs:
            self._wake.set()
        if future.cancelled():
            return
        try:
            result = await self._in_thread(function)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            if not isinstance(error, SpellstreamError):
                self.metrics.failures.inc()
                await self._try_engine()
        else:
            self._failed_trials = 0
            if not future.done():
                future.set_result(result)

    async def _try_engine(self) -> None:
        """A function failed: see whether the engine still works, or there was only too much to do for one file.

        The failure itself does not count: one client that sends such a file again and again would end the server. Nor
        is it left to the turns to tell: where all clients upload, there are none.
        """
        try:
            await self._in_thread(warm_up, self.engine)
        except Exception:
            _LOG.exception("a file failed, and so did a trial of the engine after it")
            self._failed_trials += 1
        else:
            self._failed_trials = 0


def _failed() -> OverloadError:
    return OverloadError("the engine has failed: send the file again", "stopping")
