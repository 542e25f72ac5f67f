"""Access and limits: keys, origins, connections, sizes, silent clients, clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import asr
from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.run import listen
from tests.support.serving import Running, running
from tests.support.small_model import small_model

PATIENT = ServerLimits(load_share=100)
KEY = "a key"
HELD = b"GET /health HTTP/1.1\r\nHost: here\r\nX-Held: "


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(asr.load(str(small_model(tmp_path_factory.mktemp("model"))), "cpu"))


@pytest.fixture(scope="module")
def guarded(engine: Engine) -> Iterator[Running]:
    """A server with a key and short timeouts."""
    limits = replace(PATIENT, max_connections=20, max_upload_bytes=100_000, max_uploads=1, idle_seconds=1.5)
    limits = replace(limits, max_message_bytes=50_000, max_sessions=2, send_seconds=1.0)
    with running(ServerConfig(limits=limits, api_key=KEY, cors=("https://friend.example",)), engine) as made:
        yield made


def ask(made: Running, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(made.host, made.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def authorised(made: Running, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    status, _, said = ask(made, method, path, body, Authorization=f"Bearer {KEY}", **headers)
    return status, said


async def opened(url: str, **arguments: Any) -> int:
    """The status of a handshake, 101 if it succeeds."""
    try:
        async with connect(url, **arguments):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def closed(websocket: Any) -> tuple[int, str]:
    """The server's close code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(websocket.recv(), 30)
    return websocket.close_code, websocket.close_reason


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


BEARER = {"Authorization": f"Bearer {KEY}"}


def test_without_the_key_only_probes_and_the_page_are_open(guarded: Running) -> None:
    assert [ask(guarded, "GET", path)[0] for path in ("/health", "/ready", "/ui/")] == [200] * 3
    for path in ("/metrics", "/v1/models", "/openapi.json", "/v1/audio/transcriptions", "/nothing", "/uix"):
        status, headers, body = ask(guarded, "GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(body)["error"]["message"].startswith("an API key is needed")
    for wrong in ("Bearer x", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer \xe4", f"bearer  {KEY} y", ""):
        assert ask(guarded, "GET", "/metrics", Authorization=wrong)[0] == 401
    assert authorised(guarded, "GET", "/metrics")[0] == 200


def test_a_websocket_takes_the_key_in_three_ways(guarded: Running) -> None:
    """The key may come in a header, in the query or, from browsers, as a subprotocol."""
    url, key = guarded.ws_url, "a%20key"
    right = [
        opened(url, additional_headers=BEARER),
        opened(f"{url}/?key={key}"),
        opened(f"{url}/?key={key}", origin="https://friend.example"),
        opened(f"{url}/?key={key}", origin=guarded.url),
    ]
    wrong = [opened(url), opened(f"{url}/?key=x"), opened(url, subprotocols=["bearer", "x"])]
    foreign = [opened(f"{url}/?key={key}", origin=origin) for origin in ("https://foe.example", "null")]

    async def main() -> None:
        assert await asyncio.gather(*right) == [101] * 4
        assert await asyncio.gather(*wrong) == [401] * 3
        assert await asyncio.gather(*foreign) == [403] * 2

    asyncio.run(main())


def test_a_key_may_be_a_subprotocol(engine: Engine) -> None:
    async def main(url: str) -> None:
        async with connect(url, subprotocols=["bearer", "secret"]) as websocket:
            assert websocket.subprotocol == "bearer"

    with running(ServerConfig(limits=PATIENT, api_key="secret"), engine) as made:
        asyncio.run(main(made.ws_url))


def test_a_page_of_another_origin_cannot_post(guarded: Running) -> None:
    """Browsers post a form to anybody and only keep the answer back: any page could use a server without a key."""
    for origin, status in (("https://friend.example", 400), ("https://foe.example", 403), ("null", 403)):
        assert authorised(guarded, "POST", "/v1/audio/transcriptions", Origin=origin)[0] == status, origin


def test_only_listed_origins_may_read_answers(guarded: Running) -> None:
    for origin, allowed in (("https://friend.example", "https://friend.example"), ("https://foe.example", None)):
        _, headers, _ = ask(guarded, "GET", "/health", Origin=origin)
        assert headers.get("access-control-allow-origin") == allowed
    asked = {"Origin": "https://friend.example", "Access_Control_Request_Method": "POST"}
    status, headers, _ = ask(guarded, "OPTIONS", "/v1/audio/transcriptions", **asked)
    assert status == 200
    assert "POST" in headers["access-control-allow-methods"]


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_itself(guarded: Running) -> None:
    """A body that declares a gigabyte, or comes in endless pieces, gets 413 before it is stored."""
    path = "/v1/audio/transcriptions"
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a.wav"\r\n\r\n'
        while sent < 1 << 30:
            sent += 10_000
            yield b"\0" * 10_000

    assert authorised(guarded, "POST", path, b"x", Content_Length=str(1 << 30))[0] == 413
    before = resident_bytes()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        status, _ = authorised(guarded, "POST", path, endless(), Content_Type="multipart/form-data; boundary=x")
        assert status == 413
    assert sent < 1 << 30  # the server does not read all of it
    assert resident_bytes() < before + (30 << 20)


def test_a_body_that_stops_coming_is_given_up_and_its_place_is_free_again(guarded: Running) -> None:
    request = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {KEY}\r\n"
    request += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
    with socket.create_connection((guarded.host, guarded.port), timeout=20) as slow:
        slow.sendall(request.encode())
        time.sleep(0.3)
        assert authorised(guarded, "POST", "/v1/audio/transcriptions", b"x")[0] == 503  # one at a time
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert authorised(guarded, "POST", "/v1/audio/transcriptions", b"x")[0] == 400


def test_messages_and_streams_are_bounded(guarded: Running) -> None:
    async def main() -> None:
        url = f"{guarded.ws_url}/?key=a%20key"
        async with connect(url) as first, connect(url) as second, connect(url) as third:
            for one in (first, second):
                await one.send(b"\0" * 3200)
                assert json.loads(await one.recv()) == {"partial": ""}
            await third.send(b"\0" * 3200)
            assert "2 streams are open" in json.loads(await third.recv())["error"]
            assert (await closed(third))[0] == 1013
            async with connect(url) as fourth:  # is refused before it sends anything
                assert "2 streams are open" in json.loads(await fourth.recv())["error"]
            assert ask(guarded, "GET", "/ready")[0] == 503
            assert ask(guarded, "GET", "/health")[0] == 200
            await second.send(b"\0" * 50_002)
            assert (await closed(second))[0] == 1009
            await first.send(b"\0" * 3200)
            assert json.loads(await first.recv()) == {"partial": ""}

    asyncio.run(main())


def test_the_protocols_share_one_limit_on_connections(engine: Engine) -> None:
    """Wyoming counted its connections separately, so twice the limit could be open."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]

    def answered(at: int) -> bool:
        with socket.create_connection(("127.0.0.1", at), timeout=20) as one, contextlib.suppress(ConnectionResetError):
            one.sendall(b'{"type": "ping"}\n' if at == port else b"GET /v1/models HTTP/1.1\r\n\r\n")
            return re.search(b"pong|200 OK", one.recv(1000)) is not None
        return False

    def wait_for(made: Running, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(made.service.connections) != count:
            assert time.monotonic() < deadline, len(made.service.connections)
            time.sleep(0.01)

    limits = replace(PATIENT, max_connections=4)
    with running(ServerConfig(limits=limits, wyoming_port=port), engine) as made, contextlib.ExitStack() as stack:
        *_, last = (
            stack.enter_context(socket.create_connection(("127.0.0.1", at), timeout=20))
            for at in (made.port, made.port, port, port)
        )
        wait_for(made, 4)
        assert [answered(at) for at in (port, made.port)] == [False, False]
        last.close()
        for at in (port, made.port):
            wait_for(made, 3)
            assert answered(at)


def test_who_says_nothing_is_dropped(guarded: Running) -> None:
    async def main() -> None:
        async with connect(f"{guarded.ws_url}/?key=a%20key") as websocket:
            assert await closed(websocket) == (1008, "nothing was received for 1.5 s")

    asyncio.run(main())


def test_a_stream_that_goes_silent_is_counted(guarded: Running) -> None:
    """Of the limits of a stream, only that of unread events was counted."""

    async def main() -> None:
        async with connect(f"{guarded.ws_url}/?key=a%20key") as websocket:
            await websocket.send(bytes(16_000))
            await websocket.recv()
            assert await closed(websocket) == (1008, "nothing was received for 1.5 s")

    asyncio.run(main())
    assert b'spellstream_cut_total{reason="idle_seconds"}' in authorised(guarded, "GET", "/metrics")[1]


def held(made: Running, count: int) -> list[socket.socket]:
    """Abandoned connections, some within a request."""
    found = []
    for n in range(count):
        one = socket.create_connection((made.host, made.port), timeout=30)
        if n % 2:
            with contextlib.suppress(OSError):
                one.sendall(HELD)
        found.append(one)
    return found


def gone(connections: list[socket.socket]) -> int:
    """The number of connections that the server closed; waits for each."""
    count = 0
    for one in connections:
        with contextlib.suppress(ConnectionResetError):
            while one.recv(1000):
                pass
        count += 1
        one.close()
    return count


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_connections_that_are_opened_and_left_are_closed_and_do_no_harm(guarded: Running, count: int) -> None:
    """Abandoned connections: beyond 20 they are refused, and the 20 are closed later. A stream continues meanwhile."""

    async def main() -> int:
        async with connect(f"{guarded.ws_url}/?key=a%20key") as websocket:
            leaving = asyncio.get_running_loop().run_in_executor(None, leave)
            while not leaving.done():
                await websocket.send(b"\0" * 3200)
                assert json.loads(await websocket.recv()) == {"partial": ""}
                await asyncio.sleep(0.1)
            return await leaving

    def leave() -> int:
        return gone(held(guarded, count))

    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < count + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 200, hard), hard))
    assert asyncio.run(main()) == count
    assert ask(guarded, "GET", "/health")[0] == 200
    assert b'spellstream_refused_total{reason="connections"}' in authorised(guarded, "GET", "/metrics")[1]


def test_a_client_that_never_reads_is_dropped(guarded: Running) -> None:
    """A client that requests page after page and reads none is dropped; others are served meanwhile."""
    request = f"GET /metrics HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((guarded.host, guarded.port))
        dropped, deadline = False, time.monotonic() + 40
        while not dropped and time.monotonic() < deadline:
            try:
                silent.sendall(request * 5)
            except OSError:
                dropped = True
            assert ask(guarded, "GET", "/health")[0] == 200
            time.sleep(0.1)
        assert dropped
    assert b'spellstream_cut_total{reason="reading"}' in authorised(guarded, "GET", "/metrics")[1]


def test_requests_are_not_queued_without_end(guarded: Running) -> None:
    """A client that sends a thousand requests at once is refused, and the server continues."""
    request = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
    with socket.create_connection((guarded.host, guarded.port), timeout=20) as greedy:
        greedy.sendall(request * 1000)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while more := greedy.recv(1 << 16):
                answers += more
    assert answers.count(b"200 OK") < 50
    assert ask(guarded, "GET", "/health")[0] == 200


@pytest.mark.parametrize(
    "start",
    [
        "GET /health HTTP/1.1\r\nHost: here\r\nX: ",
        "GET /health?",
        "POST /health HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["header", "address", "trailer"],
)
def test_a_head_without_end_is_not_gathered(guarded: Running, start: str) -> None:
    """A request head needs no key, and uvicorn buffers all of it."""
    sent, piece = 0, b"a" * 10_000
    endless = socket.create_connection((guarded.host, guarded.port), timeout=20)
    with contextlib.suppress(OSError), endless:
        endless.sendall(start.encode())
        while sent < 50 << 20:
            endless.sendall(piece)
            sent += len(piece)
    assert sent < 20 << 20  # part of it stays in the system's buffers
    assert authorised(guarded, "POST", "/nothing", b"x" * 90_000, X_Long="a" * 30_000)[0] == 404


def test_what_there_is_not_is_answered_in_one_form(guarded: Running) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/health", 405), ("GET", "/ui/..%2fapp.py", 404)):
        answer, said = authorised(guarded, method, path)
        assert answer == status
        assert json.loads(said)["error"]["message"]


def test_metrics_tell_of_streams(guarded: Running) -> None:
    def value(text: bytes, name: str) -> float:
        return next(float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith(name))

    async def main() -> bytes:
        async with connect(f"{guarded.ws_url}/?key=a%20key") as websocket:
            await websocket.send('{"config": {"sample_rate": 16000}}')
            await websocket.send(b"\0" * 32_000)
            await websocket.recv()
            return (await asyncio.to_thread(authorised, guarded, "GET", "/metrics"))[1]

    before, during = authorised(guarded, "GET", "/metrics")[1], asyncio.run(main())
    assert value(during, 'spellstream_streams{kind="vosk"}') == 1
    assert value(during, "spellstream_audio_seconds_total") - value(
        before, "spellstream_audio_seconds_total"
    ) == pytest.approx(1)
    assert value(during, "spellstream_chunk_latency_seconds_count") > 0
    assert value(during, "spellstream_real_time_factor") > 0
    assert value(during, "process_resident_memory_bytes") > 1e6


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in ({"max_sessions": 0}, {"load_share": 0.0}, {"max_behind_seconds": 0.5}, {"idle_seconds": -1.0}):
        with pytest.raises(asr.errors.ConfigError, match=next(iter(wrong))):
            ServerLimits(**wrong)
    for settings, complaint in (
        ({"port": 70_000}, "port"),
        ({"port": 2700, "wyoming_port": 2700}, "wyoming_port is 2700"),
        ({"sample_rate": 800_000}, r"sample_rate is 800000: it must be in 1000\.\.768000"),
        ({"cors": ("https://example.org", "https://example.org/")}, "cors is 'https://example.org/'"),
        ({"cors": ("example.org",)}, "cors is 'example.org'"),
        ({"allow_hosts": ("https://example.org",)}, "allow_hosts is 'https://example.org'"),
    ):
        with pytest.raises(asr.errors.ConfigError, match=complaint):
            ServerConfig(**settings)
