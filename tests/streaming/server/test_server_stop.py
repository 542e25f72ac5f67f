"""The end of a server: a stop finishes open work; a failure is reported and ends the process."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import asr
from asr.commands.main import main
from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.run import listen
from streaming.server.worker import Worker
from tests.support.serving import Running, running
from tests.support.small_model import small_model

PATIENT = ServerLimits(load_share=100)
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine(asr.load(str(model), "cpu"))


@pytest.fixture
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Block the engine's steps until the event is set."""
    step, going = engine.step, threading.Event()

    def wait(*arguments: Any) -> Any:
        going.wait(20)
        return step(*arguments)

    monkeypatch.setattr(engine, "step", wait)
    yield going
    going.set()


def upload() -> bytes:
    """An upload of half a second of silence."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 16_000, format="FLAC")
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % file.getvalue()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def begun(made: Running) -> Iterator[tuple[socket.socket, bytes]]:
    """An upload without its last bytes; yields the connection and these bytes."""
    with socket.create_connection((made.host, made.port), timeout=20) as connection:
        connection.sendall(upload()[:-9])
        yield connection, upload()[-9:]


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(response.read())


def test_an_upload_that_begins_in_a_stop_is_refused_and_one_that_is_under_way_is_answered(
    engine: Engine, held: threading.Event
) -> None:
    """An upload that began during a stop, on an open connection, was read, then cut off when the server ended."""
    held.set()
    with running(ServerConfig(limits=PATIENT, grace_seconds=20), engine) as made, begun(made) as (early, rest):
        late = http.client.HTTPConnection(made.host, made.port, timeout=20)
        late.request("GET", "/ready")
        assert late.getresponse().read()
        with connect(made.ws_url) as stream:  # which the stop has to wait for
            stream.send(b"\0" * 3200)
            stream.recv(timeout=20)
            held.clear()
            stream.send(b"\0" * 3200)
            stream.recv(timeout=20)
            made.stop()
            wait_until(made.service.stop.requested.is_set)
            assert late.sock is not None
            late.sock.sendall(upload())
            status, headers, said = answer(late.sock)
            assert (status, headers["retry-after"], said["error"]["message"]) == (
                503,
                "3",
                "the server is being stopped",
            )
            held.set()
            early.sendall(rest)
            status, _, said = answer(early)
            assert (status, said["text"]) == (200, "")
        late.close()


def test_an_upload_that_does_not_come_in_the_time_of_grace_is_told(engine: Engine) -> None:
    """The client gets a response in the grace period; the upload was once cut off without any."""
    with running(ServerConfig(limits=PATIENT, grace_seconds=1.0), engine) as made, begun(made) as (connection, _):
        wait_for_body(made)
        made.stop()
        status, headers, said = answer(connection)
    assert (status, headers["retry-after"]) == (503, "3")
    assert said["error"]["message"] == "the server is being stopped: send the file again"


def wait_for_body(made: Running) -> None:
    """Wait until the server has begun to read the only upload."""
    connections = made.server.server_state.connections
    wait_until(lambda: any(getattr(one, "cycle", None) is not None for one in list(connections)))
    time.sleep(0.05)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_upload_that_goes_on_for_ever_is_given_up(engine: Engine) -> None:
    """An upload of a byte now and then could hold one of the few upload slots forever."""
    limits = replace(PATIENT, max_upload_seconds=0.5)
    with running(ServerConfig(limits=limits), engine) as made, begun(made) as (connection, rest):
        connection.settimeout(0.1)
        told = b""
        for byte in rest * 20:
            with contextlib.suppress(TimeoutError):
                told = told or connection.recv(1000)
            if told:
                break
            connection.sendall(bytes([byte]))
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"the upload took longer than 0.5 s" in told


@pytest.mark.usefixtures("_own_logging")
def test_a_fault_of_its_own_ends_the_command_with_status_1(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supervisor can then restart it. It once kept running, held its port, and answered nobody."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    closed: list[int | None] = []

    def client() -> None:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=20).close()
                break
            time.sleep(0.05)
        monkeypatch.setattr(Worker, "_measure", lambda *_: 1 / 0)
        with connect(f"ws://127.0.0.1:{port}") as idle, connect(f"ws://127.0.0.1:{port}") as speaking:
            speaking.send(b"\0" * 3200)
            for one in (speaking, idle):
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        one.recv(timeout=20)
                closed.append(one.protocol.close_code)

    thread = threading.Thread(target=client)
    thread.start()
    status = main(["serve", "--port", str(port), "--model", str(model), "--device", "cpu", "--load-share", "100"])
    thread.join(20)
    assert status == 1
    assert closed == [1011, 1011]
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert said.count("CRITICAL the engine has failed for good: the server exits") == 1
    assert said.splitlines()[-1] == "spellstream: the server ended because its engine failed: see the log"
