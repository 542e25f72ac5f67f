"""The command `spellstream serve`: requirements, address, stop, log."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import asr
from asr.commands.main import main
from streaming.commands import serve
from streaming.engine import Engine
from streaming.server import logs
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.metrics import Metrics
from tests.support.serving import Running, running
from tests.support.small_model import small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_streams_compute_in_the_number_format_that_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Engine] = []
    monkeypatch.setattr(serve, "_run", lambda config, make_engine, log_format: made.append(make_engine()))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert main(["serve", "--model", str(model), "--device", "cpu", "--dtype", "bfloat16"]) == 0
    (engine,) = made
    assert engine.model.dtype == torch.bfloat16


@pytest.mark.parametrize(("options", "reuse"), [([], True), (["--alternatives", "2"], False)])
def test_a_server_reuses_the_latest_search_as_python_does(
    model: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], reuse: bool
) -> None:
    """The model's own search, handed over as if the user had chosen it, always ran again at the end of a segment."""
    made: list[Engine] = []
    monkeypatch.setattr(serve, "_run", lambda config, make_engine, log_format: made.append(make_engine()))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert main(["serve", "--model", str(model), "--device", "cpu", *options]) == 0
    assert made[0].reuse == reuse


@pytest.mark.usefixtures("_own_logging")
@pytest.mark.parametrize("option", ["--port", "--wyoming"])
def test_a_port_that_is_taken_is_one_line(taken: int, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", option, str(taken)]) == 1
    assert capsys.readouterr().err == f"spellstream: 127.0.0.1:{taken}: Address already in use\n"


@pytest.mark.usefixtures("_own_logging")
@pytest.mark.parametrize(
    ("arguments", "variable", "status", "complaint"),
    [
        (["--host", "no.such.host.invalid"], None, 1, "no.such.host.invalid:2700: "),
        (["--port", "0"], " ", 2, "SPELLSTREAM_API_KEY is set, but empty: unset it to serve without a key"),
        (["--port", "70000"], None, 2, "65535"),
        (["--port", "0", "--model", "no-such-model"], None, 1, "no-such-model"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    variable: str | None,
    status: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if variable is not None:
        monkeypatch.setenv("SPELLSTREAM_API_KEY", variable)
    assert main(["serve", *arguments]) == status
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("streaming.server.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["serve"]) == 1
    assert "pip install 'spellstream[serve]'" in capsys.readouterr().err


def served_port(process: subprocess.Popen[str]) -> int:
    """The port in the line with the server's address; a fresh process first says that the model is loading."""
    assert process.stderr is not None
    line = process.stderr.readline()
    if line == "spellstream: loading the model default\n" or line.startswith("spellstream: loading the model /"):
        line = process.stderr.readline()
    assert line.startswith("spellstream: http://127.0.0.1:")
    return int(line.split("http://127.0.0.1:")[1].split("/")[0])


async def last_words(port: int, key: str, stop: Callable[[], None]) -> dict[str, Any]:
    """The last answer to an open stream when the server is stopped."""
    headers = {"Authorization": f"Bearer {key}"}
    async with connect(f"ws://127.0.0.1:{port}", additional_headers=headers) as websocket:
        await websocket.send(b"\0" * 3200)
        await websocket.recv()
        stop()
        answer: dict[str, Any] = json.loads(await websocket.recv())
        with contextlib.suppress(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 1001
        return answer


def test_a_signal_ends_it_with_the_last_words_and_status_0(model: Path, repository_root: Path) -> None:
    """A signal ends open streams with their last words; the log is JSON, without keys."""
    command = [
        sys.executable,
        "-m",
        "asr",
        "serve",
        "--port",
        "0",
        "--model",
        str(model),
        "--device",
        "cpu",
    ]
    command += ["--log-format", "json", "--load-share", "100"]
    environment = {**os.environ, "SPELLSTREAM_API_KEY": "secret"}
    with subprocess.Popen(command, cwd=repository_root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = served_port(process)
        asyncio.run(wait_until_ready(port))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models?key=secret")
        said = asyncio.run(last_words(port, "secret", functools.partial(process.send_signal, signal.SIGTERM)))
        assert said == {"text": ""}
        log = [json.loads(line) for line in process.stderr]
        assert process.wait(30) == 0
    closed = next(line for line in log if line["message"] == "stream closed")
    assert (closed["kind"], closed["audio_seconds"], closed["finished"]) == ("vosk", 0.2, True)
    refused = next(line for line in log if line.get("status") == 401)
    assert refused["path"] == "/v1/models"
    assert "secret" not in json.dumps(log)
    assert log[-1]["message"] == "stopped"


async def wait_until_ready(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/ready")
            return
        await asyncio.sleep(0.1)


def test_what_a_client_sends_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    formatter = logs.formatter("text")
    with caplog.at_level(logging.INFO, "streaming"):
        logs.note(logging.getLogger("streaming"), "request", path='/\n2026 ERROR forged="yes"', seconds=0.12345, n=3)
    line = formatter.format(caplog.records[0])
    assert line.endswith(' INFO request path="/\\n2026 ERROR forged=\\"yes\\"" seconds=0.123 n=3')
    assert "\n" not in line


def test_a_fault_is_logged_and_counted_as_500() -> None:
    """A request that failed with 500 was logged with status 0, since an outer layer makes the response."""

    async def faulty(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a fault")

    metrics = Metrics()
    with pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(logs.AccessLog(faulty, metrics)({"type": "http", "method": "GET", "path": "/"}, None, None))  # type: ignore[arg-type]
    assert b'route="unknown",status="500"' in metrics.text()


def test_streams_that_do_not_finish_are_cut_off_when_time_is_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of a hanging engine are disconnected at the end of the grace period."""
    engine, hanging = Engine(asr.load(str(model), "cpu")), threading.Event()
    step = engine.step

    def slow(*arguments: Any) -> Any:
        hanging.wait(20)
        return step(*arguments)

    async def cut_off(made: Running) -> int | None:
        async with connect(made.ws_url) as websocket:
            await websocket.send(b"\0" * 3200)
            await websocket.recv()
            monkeypatch.setattr(engine, "step", slow)
            await websocket.send(b"\0" * 3200)
            await websocket.recv()  # the response must not wait forever either
            made.stop()
            with contextlib.suppress(ConnectionClosed):
                await websocket.recv()
            return websocket.close_code

    with running(ServerConfig(limits=ServerLimits(load_share=100), grace_seconds=0.5), engine) as made:
        try:
            assert asyncio.run(asyncio.wait_for(cut_off(made), 15)) == 1012
        finally:
            hanging.set()


_HANGS = """
import sys, threading
from asr.commands.main import main
from streaming.engine import Engine
from streaming.server import worker

step, trials = Engine.step, iter([True])
Engine.step = lambda *arguments: step(*arguments) if next(trials, False) else threading.Event().wait()
worker._MAX_TURN_SECONDS = float(sys.argv[1])
options = ["--port", "0", "--grace-seconds", "0.5", "--device", "cpu", "--threads", "1"]
sys.exit(main(["serve", *options, "--model", sys.argv[2]]))
"""


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_server_whose_engine_hangs_ends_and_says_so(model: Path, repository_root: Path, by_itself: bool) -> None:
    """The engine counted as idle, every stream was admitted, and a stop waited for its thread forever."""
    command = [sys.executable, "-c", _HANGS, "1.0" if by_itself else "60.0", str(model)]
    with subprocess.Popen(command, cwd=repository_root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        port = served_port(process)
        asyncio.run(wait_until_ready(port))

        async def talk() -> None:
            async with connect(f"ws://127.0.0.1:{port}") as websocket:
                await websocket.send(b"\0" * 64_000)
                if not by_itself:
                    await asyncio.sleep(0.5)
                    process.terminate()
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await websocket.recv()

        asyncio.run(talk())
        said = process.stderr.read()
        status = process.wait()
        watchdog.cancel()
    assert status == 1
    assert said.endswith("spellstream: the engine hangs: the server exits without waiting for it\n")
    assert ("the engine has failed for good" in said) == by_itself
