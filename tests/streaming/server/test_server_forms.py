"""Forms as sent by different clients, and errors without internal names."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile as sf

from streaming.engine import Engine
from streaming.server import files
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running
from tests.support.uploads import BOUNDARY, END, FORM, PATH, form, post, refusal

# Python's and this project's own: classes, modules, paths of source files.
PRIVATE = re.compile(
    r"<class|object at 0x|\b_[A-Z]|UploadFile|Error\b|\w\.py\b|/(usr|home|tmp|dev|proc)/|asr\.|streaming\."
)


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), shipped_engine) as live:
        yield live


@pytest.fixture(scope="module")
def speech(repository_root: Path) -> bytes:
    return (repository_root / "recipes/sample.flac").read_bytes()


@pytest.mark.parametrize(
    "names",
    [
        {"timestamp_granularities": "word"},
        {"timestamp_granularities[]": "word"},
        {"timestamp_granularities[0]": "word"},
        {"timestamp_granularities": "word,segment"},
        {"timestamp_granularities[]": "segment, word"},
    ],
)
def test_granularities_are_taken_however_they_are_spelt(server: Running, speech: bytes, names: dict[str, str]) -> None:
    """Without brackets the field was silently ignored, and the response had segments instead of words."""
    status, answer = post(server, form(speech, response_format="verbose_json", **names))
    assert status == 200
    assert answer["words"]
    assert ("segments" in answer) == ("segment" in "".join(names.values()))


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_an_unknown_granularity_is_refused_by_the_field_s_name(server: Running, speech: bytes, name: str) -> None:
    """The error named the index in the list, "0", as the parameter."""
    status, answer = post(server, form(speech, response_format="verbose_json", **{name: "word,phoneme"}))
    assert (status, answer["error"]["param"]) == (400, "timestamp_granularities[]")


@pytest.mark.parametrize(
    "disposition",
    ['name="file"', 'name="file"; filename=""', 'filename="a.flac"', 'filename=""; name="file"'],
)
def test_a_file_part_needs_no_name(server: Running, speech: bytes, disposition: str) -> None:
    """Some clients leave out the file name, or the name of the part."""
    body = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + speech + END
    expected = post(server, form(speech))[1]["text"]
    status, answer = post(server, body)
    assert (status, answer.get("text")) == (200, expected)


def wrong_forms(speech: bytes) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Requests that are refused for something in the form."""
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    yield b"file=abc&model=default", urlencoded
    yield b"", urlencoded
    yield b"{}", {"Content-Type": "application/json"}
    yield form(speech)[:300], {}
    yield form(speech, temperature="hot"), {}
    yield form(speech, temperature="9"), {}
    yield form(speech, stream="perhaps"), {}
    yield form(speech, response_format="docx"), {}
    yield form(speech, model="nobody's"), {}
    yield form(speech, language="tlh"), {}
    yield form(b"RIFF" + bytes(40)), {}
    yield form(bytes(range(256)) * 8), {}


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
def test_errors_tell_no_private_names(server: Running, speech: bytes) -> None:
    """An error once contained `Expected UploadFile, received: <class 'str'>`."""
    for body, headers in wrong_forms(speech):
        status, answer = post(server, body, **headers)
        assert 400 <= status < 500
        assert not PRIVATE.search(answer["error"]["message"]), answer


@pytest.mark.parametrize("where", ["blocks", "duration_seconds", "steps"])
@pytest.mark.parametrize("error", [TypeError("'_Private' object is not iterable"), OSError(5, "x"), MemoryError()])
def test_any_exception_while_a_file_is_decoded_is_a_400(
    server: Running, speech: bytes, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    """A library's exception gave a 500, which clients retry, though the file can never be decoded."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch, contextlib.suppress(KeyError):
        patch.setattr(files, where, fail)
        expected = "file: cannot be decoded: it is damaged, or its format is not supported"
        assert refusal(server, form(speech)) == expected
        assert refusal(server, form(speech, stream="true")) == expected
    assert post(server, form(speech))[0] == 200  # and the server goes on


def test_a_fault_within_a_stream_of_events_is_told(
    server: Running, speech: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was once closed without an error event."""
    steps = server.service.recogniser.decode_steps
    calls: list[Any] = []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise RuntimeError("a fault")
        return steps(*arguments)

    waveform, _ = sf.read(io.BytesIO(speech), dtype="float32")
    file = io.BytesIO()
    sf.write(file, np.tile(np.concatenate([waveform, np.zeros(16_000)]), 2), 16_000, format="FLAC")
    monkeypatch.setattr(server.service.recogniser, "decode_steps", fail)
    request = Request(server.url + PATH, form(file.getvalue(), stream="true"), {"Content-Type": FORM})
    with urlopen(request, timeout=60) as answer:
        events = [json.loads(data) for data in re.findall(r"^data: (.*)$", answer.read().decode(), re.MULTILINE)]
    assert events[0]["type"] == "transcript.text.delta"
    assert events[-1]["error"]["message"] == "the server failed to transcribe this file"
