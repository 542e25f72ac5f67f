"""The service behind all protocols: the engines, the streams of all clients, and jobs for their files.

Each part does one thing: `admission` refuses streams beyond the capacity, `workers` step the streams and run jobs,
 `stop` lets open conversations finish, `connections` counts connections, `metrics` measures.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asr.config import require
from asr.errors import ConfigError
from asr.search.spotting import check_spelling
from asr.steps import Steps
from asr.writing.hotwords import Hotwords, Phrase
from asr.writing.parts import Style
from streaming.engine import Engine
from streaming.server.admission import Admission
from streaming.server.config import ServerConfig
from streaming.server.connections import Connections
from streaming.server.errors import LimitError, OverloadError
from streaming.server.logs import note
from streaming.server.metrics import Metrics
from streaming.server.stop import Stop
from streaming.server.stream import Stream
from streaming.server.worker import Worker
from streaming.server.workers import Workers

__all__ = ["Service", "Stream"]

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_HOTWORD_CHARACTERS = 20  # limit on the mean length of a client's hotwords, since long ones take long to spell


class Service:
    """Opens streams and runs jobs.

    Args:
        engine: from now on used by the service alone.
        config: the server's settings.
    """

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine, self.config, self.limits = engine, config, config.limits
        self.recogniser = engine.recogniser
        self.metrics = Metrics()
        self.connections = Connections(self.limits.max_connections, self.metrics)
        self.stop = Stop(config.grace_seconds)
        # A GPU takes one step at a time, and all streams there share one table of states.
        several = config.threads > 1 and engine.device.type == "cpu"
        self.workers = Workers(engine, self.limits, self.metrics, config.threads if several else 1)
        self.admission = Admission(engine, self.limits, self.workers, self.stop)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Step the streams while this is open."""
        await self.workers.start()
        try:
            yield
        finally:
            await self.workers.close()

    @property
    def healthy(self) -> bool:
        """Whether the engine works; if not, only a restart of the process helps."""
        return self.workers.healthy

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return self.workers.streams

    def check_room(self) -> None:
        """Refuse a stream, and count it as refused, unless there is room.

        Raises:
            OverloadError: there is no room.
        """
        self._place()

    def _place(self) -> Worker:
        """The worker for another stream; a refusal is counted."""
        try:
            return self.admission.place()
        except OverloadError as refusal:
            self.metrics.refused.labels(refusal.reason).inc()
            raise

    @asynccontextmanager
    async def stream(
        self,
        sample_rate: int = 16_000,
        *,
        kind: str = "websocket",
        live: bool = False,
        hotwords: Hotwords | None = None,
        style: Style | None = None,
    ) -> AsyncIterator[Stream]:
        """Open a stream. If it is not finished at the end of the context, it is dropped with its unprocessed audio.

        Args:
            sample_rate: of the audio that will be pushed, in Hz.
            kind: of client, for metrics and logs.
            live: drop the oldest audio when the engine falls too far behind; otherwise the client has to wait.
            hotwords: hotwords of this stream, from `hotwords`; None: the server's.
            style: style of the text; None: the server's.

        Raises:
            OverloadError: there is no room.
            AudioError: the sample rate is out of bounds.
        """
        worker = self._place()
        stream = Stream(sample_rate, kind, live, self.limits, worker.wake)
        stream.hotwords, stream.style = hotwords or self.config.hotwords, style
        worker.streams[stream] = opened = time.monotonic()
        self.metrics.streams.labels(kind).inc()
        self.metrics.opened.labels(kind).inc()
        try:
            with self.stop.conversation():
                yield stream
        except LimitError as error:
            stream.error = stream.error or error
            raise
        finally:
            if isinstance(stream.error, LimitError):
                self.metrics.cut.labels(stream.error.limit).inc()
            self.metrics.streams.labels(kind).dec()
            del worker.streams[stream]
            if not stream.done:
                worker.drop(stream)
            facts: dict[str, Any] = {"seconds": time.monotonic() - opened, "audio_seconds": stream.audio_seconds}
            facts |= {"segments": stream.segments, "dropped_seconds": stream.dropped_seconds, "finished": stream.done}
            note(_LOG, "stream closed", kind=kind, **facts)

    async def hotwords(self, phrases: Sequence[str], *, lenient: bool = False) -> Hotwords | None:
        """A client's hotwords merged with the server's, checked against the model.

        Args:
            phrases: each with an optional `:weight`.
            lenient: leave out invalid phrases, and those beyond `max_hotwords`.

        Raises:
            ConfigError: there are more than `max_hotwords`, or a phrase is wrong or cannot be spelled.
        """
        return await asyncio.to_thread(self._hotwords, phrases, lenient) if phrases else self.config.hotwords

    def _hotwords(self, phrases: Sequence[str], lenient: bool) -> Hotwords | None:
        most = self.limits.max_hotwords
        require(lenient or len(phrases) <= most, "the number of hotwords", len(phrases), f"at most {most}")
        bound = most * _HOTWORD_CHARACTERS
        total = sum(map(len, phrases))
        require(lenient or total <= bound, "the length of the hotwords together", total, f"at most {bound} characters")
        fitting, room = [], bound
        for phrase in phrases[:most]:
            if (room := room - len(phrase)) < 0:
                break
            try:
                one = Phrase.parse(phrase)
                check_spelling(one, self.recogniser.tokenizer)
                fitting.append(one)
            except ConfigError:
                if not lenient:
                    raise
        found = Hotwords(tuple(fitting)) if fitting else None
        if found and self.config.hotwords:
            found = self.config.hotwords + found
        return found or self.config.hotwords

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(recogniser, *args)` beside an engine, between two turns.

        Streams wait meanwhile, so it must be short. If the caller is cancelled before the function's turn, it is not
        run. With several workers, function, arguments and result are sent between processes.

        Raises:
            OverloadError: the engine has failed.
        """
        result: T = await self.workers.run(function, *args)
        return result

    async def run_steps(self, function: Callable[..., Steps[T]], *args: Any) -> T:
        """Do work in steps, as `run` does; streams and other files run between them.

        If the caller is cancelled, the steps that have not begun are not done.

        Raises:
            OverloadError: the engine has failed.
        """
        result: T = await self.workers.run(function, *args)
        return result

    def update_metrics(self) -> None:
        """Update the gauges that are not updated by events."""
        self.metrics.queue_seconds.set(
            sum(stream.waiting_seconds for worker in self.workers for stream in worker.streams)
        )
        self.metrics.real_time_factor.set(self.workers.real_time_factor())
