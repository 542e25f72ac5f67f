"""Host names of requests: a page whose name resolves to 127.0.0.1 is refused."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import asr
from streaming.engine import Engine
from streaming.server.access import Access
from streaming.server.config import ServerConfig
from tests.support.serving import running
from tests.support.small_model import small_model

LOCAL = ["localhost", "localhost:2700", "LocalHost.", "page.localhost:80", "127.0.0.1:2700", "127.9.9.9", "[::1]:2700"]
OTHERS = ["evil.example", "evil.example:2700", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "", "a@b"]


def status(config: ServerConfig, host: str | None) -> int:
    """The status of a request with this Host header."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if host is None else [(b"host", host.encode())]
    scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b"", "headers": headers}
    asyncio.run(Access(app, config)(scope, None, send))  # type: ignore[arg-type]
    return int(sent[0]["status"])


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "127.1"])
def test_on_localhost_without_a_key_only_local_names_are_answered(bound: str) -> None:
    """DNS rebinding: a page whose name is made to resolve to 127.0.0.1 could use a server on localhost."""
    config = ServerConfig(host=bound)
    assert {host: status(config, host) for host in LOCAL} == dict.fromkeys(LOCAL, 200)
    assert {host: status(config, host) for host in OTHERS} == dict.fromkeys(OTHERS, 403)
    assert status(config, "192.168.1.7") == 200  # an address cannot be rebound; a proxy may forward it
    assert status(config, None) == 200  # no browser


def test_the_machines_own_name_is_local_where_nobody_else_can_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own name is local (Debian: 127.0.1.1); a client's Host is not resolved, since DNS may be forged."""
    found = {"own": ["127.0.1.1", "::1"], "both": ["127.0.1.1", "192.168.1.7"], "evil.example": ["127.0.0.1"]}

    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in found:
            raise socket.gaierror(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found[name]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("own", "Own"):
        config = ServerConfig(host=name)
        assert {status(config, host) for host in (*LOCAL, "own:2700")} == {200}
        assert {status(config, host) for host in (*OTHERS, "both")} == {403}
    for name in ("both", "unknown", ""):
        assert status(ServerConfig(host=name), "speech.example.org") == 200


@pytest.mark.parametrize("config", [ServerConfig(api_key="k"), ServerConfig(host="0.0.0.0"), ServerConfig(host="::")])
def test_with_a_key_or_for_the_network_any_name_is_answered(config: ServerConfig) -> None:
    """With a key, or on the network, any name is accepted: a proxy forwards its own name, and pages lack the key."""
    assert {status(config, host) for host in (*LOCAL, "speech.example.org")} == {200}


def test_names_that_are_allowed_are_answered_and_no_others() -> None:
    config = ServerConfig(host="0.0.0.0", api_key="k", allow_hosts=("Speech.example.org",))
    assert {status(config, host) for host in (*LOCAL, "speech.example.org:443", "SPEECH.example.org")} == {200}
    assert {status(config, host) for host in OTHERS} == {403}
    assert status(ServerConfig(allow_hosts=("*",)), "evil.example") == 200


def test_a_websocket_is_refused_by_another_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    engine = Engine(asr.load(str(small_model(tmp_path_factory.mktemp("model"))), "cpu"))
    with running(ServerConfig(), engine) as made:
        with connect(made.ws_url):
            pass
        rebound = f"ws://evil.example:{made.port}"
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(rebound, address=(made.host, made.port), origin=f"http://evil.example:{made.port}"),
        ):
            pass
