"""Uploads that are too large, long or slow, broken or hostile; and requests generated from the server's OpenAPI."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import hypothesis
import numpy as np
import pytest
import soundfile as sf
import torch

from asr.audio.vad import SpeechDetector
from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from tests.support.serving import Running, running
from tests.support.uploads import END, FORM, PATH, form, post, refusal

MAX_SECONDS = 60.0
LIMITS = ServerLimits(max_upload_bytes=4 << 20, max_uploads=3, max_stream_seconds=MAX_SECONDS, idle_seconds=1.0)


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(limits=LIMITS), shipped_engine) as live:
        yield live


@pytest.fixture(scope="module")
def speech(repository_root: Path) -> bytes:
    return (repository_root / "recipes/sample.flac").read_bytes()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def flac(waveform: np.ndarray[Any, np.dtype[Any]], rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    sf.write(file, waveform, rate, format="FLAC")
    return file.getvalue()


def claiming(file: bytes, samples: int) -> bytes:
    """A FLAC file whose header declares another number of samples (a 36-bit field)."""
    head = bytearray(file)
    head[21:26] = ((head[21] >> 4 << 36) | samples).to_bytes(5, "big")
    return bytes(head)


def wav_without_samples() -> bytes:
    file = io.BytesIO()
    sf.write(file, np.zeros(0), 16_000, format="WAV")
    return file.getvalue()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what is too much -------------------------------------------------------------------------------------------------


def test_an_upload_too_large_is_refused_by_its_header(server: Running) -> None:
    """An upload whose header declares too large a size is refused before any of it is read."""
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_an_upload_too_large_is_refused_as_it_comes(server: Running) -> None:
    pieces = iter([form(b"").removesuffix(END), *[bytes(1 << 16)] * 100])
    assert "larger than 4194304 bytes" in refusal(server, pieces, 413)


def test_a_length_beyond_the_bound_is_refused_by_its_header(server: Running, speech: bytes) -> None:
    """A file whose header declares a hundred hours is refused without decoding."""
    started = time.monotonic()
    message = refusal(server, form(claiming(speech, 100 * 3600 * 16_000)))
    assert message == "file: is longer than 60 s, which is the limit"
    assert time.monotonic() - started < 3


def test_a_length_beyond_the_bound_is_found_where_the_header_does_not_tell(server: Running) -> None:
    """A file too long, without a length in its header, is refused: some kilobytes decode to over a minute."""
    bomb = claiming(flac(np.zeros(int(16_000 * (MAX_SECONDS + 10)))), 0)
    assert len(bomb) < 40_000
    status, answer = post(server, form(bomb))
    assert (status, answer["error"]["code"]) == (400, "input_too_large")


@pytest.mark.parametrize("name", ["prompt", "x" * 5000])
def test_a_field_that_is_too_long_is_refused(server: Running, speech: bytes, name: str) -> None:
    value = "x" * (100_000 if name == "prompt" else 1)
    assert refusal(server, form(speech, **{name: value}))


def test_too_many_fields_and_files_are_refused(server: Running, speech: bytes) -> None:
    assert "Too many fields" in refusal(server, form(speech, **{f"field{i}": "" for i in range(200)}))
    twice = form(speech).removesuffix(END) + b"\r\n" + form(speech)
    assert "Too many files" in refusal(server, twice)


def test_a_slow_upload_is_given_up_and_others_come_in_meanwhile(server: Running, speech: bytes) -> None:
    """Requests beyond `max_uploads` are told to retry; after slow uploads are dropped, there is room again."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
    head += f"Content-Length: {len(speech)}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((server.host, server.port), timeout=10)) for _ in range(3)]
        for connection in slow:
            connection.sendall(head.encode() + form(speech)[:100])
        wait_for(lambda: post(server, form(speech))[0] == 503)
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(server.url + PATH, form(speech)), timeout=5)
        with caught.value as busy:
            assert int(busy.headers["Retry-After"]) > 0
        assert [connection.recv(1 << 16).split()[1] for connection in slow] == [b"408"] * 3
    wait_for(lambda: post(server, form(speech))[0] == 200)


# --- what is no audio -------------------------------------------------------------------------------------------------


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(50_000_000))
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "file: is empty (0 bytes)"),
        (b"hello", "file: is not audio: it looks like text"),
        (zip_bomb(), "file: is not audio: it looks like a zip archive"),
        (wav_without_samples(), "file: holds no samples"),
        (flac(np.random.default_rng(0).uniform(-1, 1, 16_000))[:9000], "file: is damaged or cut short"),
        (bytes(range(256)) * 40, "file: "),
    ],
    ids=["empty", "text", "zip", "no samples", "cut flac", "noise"],  # a zip file contains the time
)
def test_what_is_no_audio_is_refused(server: Running, file: bytes, reason: str) -> None:
    assert refusal(server, form(file)).startswith(reason)


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
def test_a_body_that_is_no_form_is_refused(server: Running, speech: bytes) -> None:
    assert refusal(server, speech, **{"Content-Type": "audio/flac"}) == "'file': Field required"
    assert refusal(server, b'{"file": "x"}', **{"Content-Type": "application/json"}) == "'file': Field required"
    assert refusal(server, form(speech), **{"Content-Type": "multipart/form-data"})
    assert refusal(server, form(speech)[:1000])
    assert refusal(server, gzip.compress(form(speech)), **{"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    "filename",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        "a\x00.wav",
        "CON",
        "-",
        "%2e%2e%2f",
        "x" * 3000,
        "$(touch x)",
        "ファイル.mp3",
    ],
)
def test_a_files_name_means_nothing(
    server: Running, filename: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, answer = post(server, form(flac(np.zeros(16_000)), filename))
    assert (status, answer["text"]) == (200, "")
    assert not list(tmp_path.iterdir())


def test_a_short_file_does_not_wait_for_a_long_one(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short file does not wait for a long one, even of silence: a small file that takes long to read."""
    done: list[str] = []
    hear = SpeechDetector.hear

    def slowly(detector: SpeechDetector, windows: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return hear(detector, windows, context)

    monkeypatch.setattr(SpeechDetector, "hear", slowly)

    def ask(name: str, file: bytes) -> None:
        assert post(server, form(file))[0] == 200
        done.append(name)

    long = threading.Thread(target=ask, args=("long", flac(np.zeros(int(16_000 * MAX_SECONDS)))))
    long.start()
    time.sleep(0.3)
    ask("short", flac(np.zeros(16_000)))
    long.join()
    assert done == ["short", "long"]


# --- clients that go away ---------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_ends_its_job(server: Running, speech: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a client disconnects, decoding of its file ends, and its file is closed."""
    post(server, form(speech))
    before = descriptors()
    decoded: list[float] = []
    recogniser = server.service.recogniser
    steps = recogniser.decode_steps

    def counted(waveforms: Any, *arguments: Any) -> Any:
        decoded.append(time.monotonic())
        return steps(waveforms, *arguments)

    monkeypatch.setattr(recogniser, "decode_steps", counted)
    waveform, _ = sf.read(io.BytesIO(speech), dtype="float32")
    long = flac(np.tile(np.concatenate([waveform, np.zeros(16_000)]), 9))
    for options in ({}, {"stream": "true"}):
        decoded.clear()
        body = form(long, **options)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
        with socket.create_connection((server.host, server.port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: len(decoded) >= 2)
        assert post(server, form(speech))[0] == 200  # after the current slice
        count = len(decoded)
        time.sleep(0.5)
        assert len(decoded) == count < 5  # two batches, perhaps a third, and the other file
    wait_for(lambda: descriptors() <= before)


def test_a_server_that_is_stopped_tells_its_clients(shipped_engine: Engine, speech: bytes) -> None:
    """At a stop, a file too long for the grace period gets an error response rather than a cut connection."""
    waveform, _ = sf.read(io.BytesIO(speech), dtype="float32")
    body = form(flac(np.tile(np.concatenate([waveform, np.zeros(16_000)]), 50)), stream="true")
    with (
        running(ServerConfig(grace_seconds=1), shipped_engine) as live,
        urlopen(Request(live.url + PATH, body, {"Content-Type": FORM}), timeout=60) as answer,
    ):
        first = json.loads(answer.readline().removeprefix(b"data: "))
        live.stop()
        last = json.loads(answer.read().decode().strip().rsplit("data: ", 1)[-1])
    assert first["type"] == "transcript.text.delta"
    assert last["error"]["message"] == "the server is being stopped: send the file again"


def test_a_broken_file_is_told_of_in_the_stream(server: Running, speech: bytes) -> None:
    """In an event stream, segments before the damage are sent, then an error that the client's library raises."""
    waveform, _ = sf.read(io.BytesIO(speech), dtype="float32")
    broken = flac(np.tile(waveform, 8))[: 5 * len(speech)]
    request = Request(server.url + PATH, form(broken, stream="true"), {"Content-Type": FORM})
    with urlopen(request, timeout=60) as answer:
        events = [json.loads(data) for data in re.findall(r"^data: (.*)$", answer.read().decode(), re.MULTILINE)]
    assert {event["type"] for event in events[:-1]} == {"transcript.text.delta"}
    assert "is damaged or cut short" in events[-1]["error"]["message"]


# --- made-up requests -------------------------------------------------------------------------------------------------


def fuzz(server: Running, examples: int) -> None:
    """Call every operation of the server's OpenAPI with valid and invalid requests from schemathesis."""
    schemathesis = pytest.importorskip("schemathesis")
    with urlopen(f"{server.url}/openapi.json", timeout=10) as answer:
        schema = schemathesis.openapi.from_dict(json.load(answer))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert any(operation.path == PATH for operation in operations)
    for operation in operations:

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call(base_url=server.url, timeout=10)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)

        ask()


def test_made_up_requests_are_answered(server: Running) -> None:
    fuzz(server, 15)


@pytest.mark.slow
def test_many_made_up_requests_are_answered(server: Running) -> None:
    fuzz(server, 500)


@pytest.mark.slow
def test_a_long_file_needs_no_more_memory_than_a_short_one(shipped_engine: Engine, speech: bytes) -> None:
    """Twelve minutes of audio, with a sentence in each, need no more memory than a short file."""
    waveform, _ = sf.read(io.BytesIO(speech), dtype="float32")
    minute = np.concatenate([waveform, np.zeros(60 * 16_000 - len(waveform), np.float32)])
    short, long = (flac(np.tile(minute, minutes)) for minutes in (1, 12))

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with running(ServerConfig(), shipped_engine) as server:
        assert post(server, form(short))[0] == 200
        before = resident_bytes()
        status, answer = post(server, form(long))
        assert status == 200
        assert answer["text"].count("window") == 12
        assert resident_bytes() - before < 30 << 20


@pytest.mark.slow
def test_a_gigabyte_is_refused_with_flat_memory(server: Running) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1])
    pieces = itertools.chain([form(b"").removesuffix(END)], itertools.repeat(bytes(1 << 20), 1 << 10))
    assert "larger than 4194304 bytes" in refusal(server, pieces, 413)
    assert (int(Path("/proc/self/statm").read_text().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE") < 30 << 20
