"""HEAD is answered wherever GET is: `wget --spider`, a usual container health check, sends HEAD."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running

PATHS = ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/default", "/openapi.json", "/docs", "/ui/")


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


def ask(server: Running, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    result = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return result


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/v1/models/none", "/v1/audio/transcriptions"])
def test_head_is_answered_as_get_without_a_body(server: Running, path: str) -> None:
    """HEAD once gave 405 everywhere but on the page."""
    status, headers, body = ask(server, "HEAD", path)
    expected, expected_headers, content = ask(server, "GET", path)
    assert (status, body) == (expected, b"")
    assert status == 200 if path in PATHS else status >= 400
    assert headers["content-type"] == expected_headers["content-type"]
    if path != "/metrics":  # its content changes between requests
        assert headers["content-length"] == str(len(content))


def test_head_is_counted_as_such(server: Running) -> None:
    ask(server, "HEAD", "/v1/models")
    assert b'method="HEAD",route="/v1/models",status="200"' in server.service.metrics.text()
