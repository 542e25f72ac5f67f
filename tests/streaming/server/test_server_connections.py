"""A full server answers health probes only."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from tests.support.serving import Running, running

BOUND = 3


@pytest.fixture(scope="module")
def full(shipped_engine: Engine) -> Iterator[Running]:
    """A server with as many connections as it allows."""
    config = ServerConfig(limits=ServerLimits(max_connections=BOUND, idle_seconds=120))
    with running(config, shipped_engine) as live, contextlib.ExitStack() as stack:
        for _ in range(BOUND):
            stack.enter_context(connected(live))
        wait_for(lambda: live.service.connections.full)
        yield live


def connected(server: Running) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=20)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(server: Running, head: str) -> bytes:
    """Send a request; returns the whole response, up to the close of the connection."""
    answer = b""
    with connected(server) as connection:
        connection.sendall(f"{head}\r\nHost: localhost\r\n\r\n".encode())
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_full_server_is_healthy_but_not_ready(full: Running, method: str) -> None:
    """`/health` was answered 503 as well: a supervisor would have restarted the server and killed its streams."""
    assert ask(full, f"{method} /health HTTP/1.1").startswith(b"HTTP/1.1 200 ")
    assert ask(full, f"{method} /metrics HTTP/1.1").startswith(b"HTTP/1.1 200 ")
    assert ask(full, f"{method} /ready HTTP/1.1").startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    "head",
    [
        "GET /ui/ HTTP/1.1",
        "GET /healthy HTTP/1.1",
        "POST /v1/audio/transcriptions HTTP/1.1\r\nContent-Length: 9",
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket",
        "GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket",
    ],
)
def test_a_full_server_refuses_everybody_else(full: Running, head: str) -> None:
    answer = ask(full, head)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" in answer


def test_silent_connections_cannot_keep_a_probe_out(full: Running) -> None:
    """If all connections reserved for probes are silent, the oldest is closed for the next probe."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(full))
        assert ask(full, "GET /health HTTP/1.1").startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: not full.service.connections.spare)
    assert len(full.service.connections) == BOUND


def test_a_probe_s_connection_is_for_one_request(full: Running) -> None:
    """A probe's connection takes one request only: more would get into a full server."""
    with connected(full) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
