"""Open connections: the limit on their number, and an HTTP protocol with bounds."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from streaming.server.metrics import Metrics

__all__ = ["PROBES", "Connections", "bounded_protocol"]

PROBES = ("/health", "/ready", "/metrics")  # answered even by a full server
_SPARE_CONNECTIONS = 8  # beyond the bound, for probes alone
_MAX_PIPELINED = 10  # waiting requests of one connection; uvicorn would queue any number
_MAX_HEAD_BYTES = 1 << 16  # of a request's address and headers; uvicorn would gather any number
_MAX_IGNORED_BYTES = 1 << 20  # of a body that continues after the response; uvicorn would read it to the end
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connections:
    """Counts the open connections of all protocols.

    Args:
        bound: number of connections that may be open, idle ones included.
        metrics: count refused connections.
    """

    def __init__(self, bound: int, metrics: Metrics) -> None:
        self.bound = bound
        self.spare: list[Any] = []  # connections beyond the bound, the oldest first
        self._groups: list[Sized] = []
        self._metrics = metrics

    def add_group(self, group: Sized) -> None:
        """Count the connections in `group`, which its owner maintains."""
        self._groups.append(group)

    def __len__(self) -> int:
        return sum(map(len, self._groups)) - len(self.spare)

    @property
    def full(self) -> bool:
        """Whether another connection would exceed the bound."""
        return len(self) >= self.bound

    def refused(self) -> None:
        """Count a connection that was turned away."""
        self._metrics.refused.labels("connections").inc()


def bounded_protocol(connections: Connections) -> type[HttpToolsProtocol]:
    """The HTTP protocol of a server whose connections are counted in `connections`."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"counted": connections})


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds on connections, pipelined requests, headers and ignored bodies.

    A connection beyond the bound gets status 503, unless it requests one of `PROBES`: a supervisor must not restart a
    full server as if it were broken.
    """

    counted: ClassVar[Connections]
    held_bytes = 0  # bytes held by the parser, received since the start of the request or of the last piece of its body
    ignored_bytes = 0
    refused = False

    @property
    def is_spare(self) -> bool:
        return self in self.counted.spare

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.counted) > self.counted.bound:
            self.counted.spare.append(self)
            if len(self.counted.spare) > _SPARE_CONNECTIONS:  # a silent connection cannot keep probes out
                self.counted.spare[0].refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_spare:
            self.counted.spare.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.held_bytes += len(data)
        super().data_received(data)
        if self.held_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("the head of the request is too long")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("too many requests at once")  # the parser stops, and the client gets status 400
        self.held_bytes = self.ignored_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        if self.is_spare and path not in PROBES:
            self.refuse()
        if self.refused:
            return
        super().on_headers_complete()
        if self.is_spare and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        self.held_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self.ignored_bytes += len(body)
            if self.ignored_bytes > _MAX_IGNORED_BYTES:
                self.transport.abort()

    def on_message_complete(self) -> None:
        if not self.refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if self.is_spare:
            self.refuse()
        if not self.refused:
            super().handle_websocket_upgrade()

    def refuse(self) -> None:
        """Answer that the server is full, and close the connection."""
        self.refused = True
        self.counted.refused()
        self.transport.write(_BUSY)
        self.transport.close()
        # No longer counted, so that the next probe finds room.
        self.counted.spare.remove(self)
        self.connections.discard(self)
