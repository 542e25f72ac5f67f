"""uvicorn, and what it leaves open: silent connections, clients that never read, a stop that lets streams finish."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from asr.errors import SpellstreamError
from streaming.server.config import ServerConfig
from streaming.server.connections import bounded_protocol
from streaming.server.logs import note
from streaming.server.service import Service

__all__ = ["Server", "listen"]

_LOG = logging.getLogger(__name__)
_TICKS = 10  # uvicorn's, of 0.1 s: how often connections are looked at
_GOODBYE_SECONDS = 2.0  # for WebSocket clients to answer that they are being closed
_SPARE_FILES = 64  # beside connections: the model, uploads, logs
_SEND_BYTES = 1 << 16  # that the system keeps for a client that does not read; answers are small


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        SpellstreamError: the address cannot be used; one line says which and why.
    """
    made = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)  # connections inherit it
        made.bind(address)
    except OSError as error:
        if made is not None:
            made.close()
        raise SpellstreamError(f"{host}:{port}: {error.strerror or error}") from None
    made.set_inheritable(False)
    return made


class Server(uvicorn.Server):
    """Serves the application of `create_app`."""

    def __init__(self, app: FastAPI, config: ServerConfig) -> None:
        limits = config.limits
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(app.state.service.connections),
                ws="websockets-sansio",
                ws_max_size=limits.max_message_bytes,
                ws_per_message_deflate=False,  # PCM hardly shrinks, and each connection would need memory for it
                log_config=None,
                access_log=False,  # it would show keys; streaming.server.logs has one that does not
                server_header=False,
                backlog=max(128, min(2048, limits.max_connections)),
            )
        )
        self.failed = False  # it ends for a fault of its own
        self._service: Service = app.state.service
        self._service.connections.add_group(self.server_state.connections)
        self._limits, self._grace_seconds = limits, config.grace_seconds
        self._watched: dict[Any, _Seen] = {}
        _allow_files(limits.max_connections + _SPARE_FILES)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, at once at the second; the exit status tells of neither."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look after connections now and then; whether to exit: also where only a new start will help."""
        if not (self._service.healthy or self.failed):
            self.failed = self.should_exit = True
            note(_LOG, "the engine has failed for good: the server ends", logging.CRITICAL)
        if counter % _TICKS == 0:
            self._sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, let streams say their last words, then close what is open."""
        note(_LOG, "stopping", streams=self._service.open_streams)
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + self._grace_seconds
        draining = asyncio.create_task(self._service.drain())
        while not (draining.done() or self.force_exit) and time.monotonic() < deadline:
            await asyncio.wait((draining,), timeout=0.1)
        if not draining.done():
            draining.cancel()
            note(_LOG, "streams are cut off", logging.WARNING, streams=self._service.open_streams)
        await self._wait_for_goodbyes(min(deadline, time.monotonic() + _GOODBYE_SECONDS))
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)
        note(_LOG, "stopped")

    async def _wait_for_goodbyes(self, until: float) -> None:
        """Let WebSocket clients answer that they are being closed, as uvicorn cuts them off next.

        What they have sent meanwhile is read and forgotten: closing a socket with anything unread resets the
        connection, and a client that was ahead of the engine would never read why.
        """
        while time.monotonic() < until and any(getattr(c, "close_sent", False) for c in self.server_state.connections):
            await asyncio.sleep(0.01)

    def _sweep(self) -> None:
        """Drop who connects and asks for nothing, and who reads nothing of what is sent."""
        now, connections = time.monotonic(), self.server_state.connections
        self._service.metrics.connections.set(len(self._service.connections))
        self._watched = {c: _Seen.of(c, self._watched.get(c), now) for c in connections}
        for connection, seen in self._watched.items():
            if now - seen.asked > self._limits.idle_seconds or now - seen.read > self._limits.send_seconds:
                self._service.metrics.cut.labels("reading" if seen.unread else "asking").inc()
                connection.transport.abort()


@dataclass(frozen=True)
class _Seen:
    """What a connection looked like."""

    unread: int  # bytes that wait for the client to read
    read: float  # when it last read something, or had nothing to read
    asked: float  # when it last was at work on a request

    @classmethod
    def of(cls, connection: Any, before: _Seen | None, now: float) -> _Seen:
        unread = connection.transport.get_write_buffer_size()
        cycle = getattr(connection, "cycle", connection)  # a WebSocket looks after its idle time itself
        at_work = cycle is not None and not getattr(cycle, "response_complete", False)
        if before is None:
            return cls(unread, now, now)
        stuck = unread > 0 and unread >= before.unread > 0
        return cls(unread, before.read if stuck else now, now if at_work else before.asked)


def _allow_files(count: int) -> None:
    """Raise how many files may be open, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        _LOG.warning("%d files may be open: fewer connections than the limit allows will fit", wanted)
