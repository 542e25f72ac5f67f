"""The uvicorn server, extended: it drops silent and unread connections, and lets streams finish before it stops."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable
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
_TICKS = 10  # of uvicorn's 0.1 s, between two checks of the connections
_GOODBYE_SECONDS = 2.0  # for WebSocket clients to answer a close frame
_SPARE_FILES = 64  # open files besides connections: the model, uploads, logs
_SEND_BYTES = 1 << 16  # of the system's send buffer, for a client that does not read; answers are small


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket to an address.

    Raises:
        SpellstreamError: the address cannot be used; the message names it and the reason.
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
    """Serves the application of `create_app`.

    Args:
        app: the application.
        config: the server's settings.
        ready: called when connections are accepted.
    """

    def __init__(self, app: FastAPI, config: ServerConfig, ready: Callable[[], None] = lambda: None) -> None:
        limits = config.limits
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(app.state.service.connections),
                ws="websockets-sansio",
                ws_max_size=limits.max_message_bytes,
                ws_per_message_deflate=False,  # PCM hardly shrinks, and each connection would need memory for it
                log_config=None,
                access_log=False,  # it would log keys in queries; see streaming.server.logs
                server_header=False,
                backlog=max(128, min(2048, limits.max_connections)),
            )
        )
        self.failed = False  # ended because of a fault of its own
        self._service: Service = app.state.service
        self._service.connections.add_group(self.server_state.connections)
        self._limits, self._grace_seconds = limits, config.grace_seconds
        self._watched: dict[Any, _Seen] = {}
        self._ready = ready
        _allow_files(limits.max_connections + _SPARE_FILES)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Warm the engine up, then accept connections."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in an orderly way at the first signal and at once at the second; the exit status is 0 either way."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Check connections regularly; return whether to exit, also because of a broken engine."""
        if not (self._service.healthy or self.failed):
            self.failed = self.should_exit = True
            note(_LOG, "the engine has failed for good: the server exits", logging.CRITICAL)
        if counter % _TICKS == 0:
            self._sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing new, let streams finish within the grace period, then close all connections."""
        note(_LOG, "stopping", streams=self._service.open_streams)
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + self._grace_seconds
        draining = asyncio.create_task(self._service.stop.drain())
        while not (draining.done() or self.force_exit) and time.monotonic() < deadline:
            await asyncio.wait((draining,), timeout=0.1)
        if not draining.done():
            draining.cancel()
            note(
                _LOG,
                "the grace period is over: streams are cut off",
                logging.WARNING,
                streams=self._service.open_streams,
            )
        await self._wait_for_goodbyes(min(deadline, time.monotonic() + _GOODBYE_SECONDS))
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)
        note(_LOG, "stopped")

    async def _wait_for_goodbyes(self, until: float) -> None:
        """Let WebSocket clients answer the close frame, before uvicorn cuts them off.

        Until then their messages are read and ignored: closing a socket with unread data resets the connection, and a
        client ahead of the engine would never see the reason.
        """
        while time.monotonic() < until and any(getattr(c, "close_sent", False) for c in self.server_state.connections):
            await asyncio.sleep(0.01)

    def _sweep(self) -> None:
        """Drop connections that send no request, and those that do not read their answers."""
        now, connections = time.monotonic(), self.server_state.connections
        self._service.metrics.connections.set(len(self._service.connections))
        self._watched = {c: _Seen.of(c, self._watched.get(c), now) for c in connections}
        for connection, seen in self._watched.items():
            if now - seen.asked > self._limits.idle_seconds or now - seen.read > self._limits.send_seconds:
                self._service.metrics.cut.labels("reading" if seen.unread else "asking").inc()
                connection.transport.abort()


@dataclass(frozen=True)
class _Seen:
    """State of a connection at the last check."""

    unread: int  # bytes in the write buffer
    read: float  # when the client last read something, or had nothing to read
    asked: float  # when a request was last in progress

    @classmethod
    def of(cls, connection: Any, before: _Seen | None, now: float) -> _Seen:
        unread = connection.transport.get_write_buffer_size()
        cycle = getattr(connection, "cycle", connection)  # a WebSocket has its own idle timeout
        at_work = cycle is not None and not getattr(cycle, "response_complete", False)
        if before is None:
            return cls(unread, now, now)
        stuck = unread > 0 and unread >= before.unread > 0
        return cls(unread, before.read if stuck else now, now if at_work else before.asked)


def _allow_files(count: int) -> None:
    """Raise the limit on open files to `count`, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        _LOG.warning("the system allows %d open files: fewer connections than --max-connections will fit", wanted)
