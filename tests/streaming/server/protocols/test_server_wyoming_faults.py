"""The Wyoming protocol on a running server: clients that break it, go silent, or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import cast

import pytest

from streaming.server.protocols.wyoming import _Connection
from tests.support.serving import Running
from tests.support.wyoming import LIMITS, described, line, send, wait_for

START = {"rate": 16_000, "width": 2, "channels": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a header is not a JSON object"),
        (b"\xff\xfe\x00\n", "a header is not a JSON object"),
        (b"[1, 2]\n", "a header is not a JSON object"),
        (b"[" * 60_000 + b"\n", "a header is not a JSON object"),
        (b'{"type": ' + b"x" * 300_000, "a header is longer than 65536 bytes"),
        (line(type=["audio-start"]), "a header has no type"),
        (line(type="describe", data=[1]), "its data is not an object"),
        (line(type="describe", data_length=5) + b"[[[[[", "the data of an event is not a JSON object"),
        (line(type="audio-chunk", payload_length=1 << 40), "payload_length is not a number from 0 to 1048576"),
        (line(type="audio-chunk", payload_length=-1), "payload_length is not a number"),
        (line(type="audio-chunk", payload_length="9"), "payload_length is not a number"),
        (line(type="audio-chunk", data_length=True), "data_length is not a number"),
        (line(type="audio-start"), "audio-start must have rate, width and channels, as integers"),
        (line(type="audio-start", data={**START, "rate": 16e3}), "as integers"),
        (line(type="audio-start", data={**START, "width": 0}), "width must be 1 to 4 bytes"),
        (line(type="audio-start", data={**START, "channels": 10**9}), "channels 1 to 32"),
        (line(type="audio-start", data={**START, "rate": 10**12}), "sample rate is 1000000000000 Hz"),
        (line(type="audio-start", data=START) * 2, "audio-start came before the audio-stop"),
        (
            line(type="audio-start", data=START) + line(type="audio-chunk", data={**START, "rate": 8000}),
            "the format changed within a stream: 8000 Hz, width 2, channels 1 after 16000 Hz, width 2, channels 1",
        ),
        (line(type="transcribe", data={"language": "de-DE"}), "language is 'de-DE': the model supports only 'en'"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(port: int, data: bytes, reason: str) -> None:
    received = send(port, data)
    assert b'"type": "error"' in received
    assert reason in received.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        line(type="no-such-event") * 3,
        line(type="audio-chunk", data=START, payload_length=1000) + b"too short",
        line(type="audio-start", data=START),
        line(type="audio-start", data=START) + line(type="audio-stop")[:10],
    ],
)
def test_a_client_that_goes_away_leaves_nothing(wyoming: Running, port: int, data: bytes) -> None:
    send(port, data)
    wait_for(lambda: b'spellstream_streams{kind="wyoming"} 1.0' not in wyoming.service.metrics.text())
    assert described(port).asr


def test_a_silent_client_is_dropped(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b'{"type": "des')
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert LIMITS.idle_seconds - 0.5 < time.monotonic() - started < LIMITS.idle_seconds + 3


def test_a_stream_that_goes_silent_is_told_and_counted(wyoming: Running, port: int) -> None:
    """A client that stopped sending within a stream was dropped without a word, and in no metric."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(line(type="audio-start", data=START))
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"nothing was received for 2 s" in received
    assert b'spellstream_cut_total{reason="idle_seconds"} 1.0' in wyoming.service.metrics.text()


def test_a_client_that_never_reads_is_dropped(port: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)

        def dropped() -> bool:
            try:
                connection.send(line(type="describe") * 1000)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return False

        wait_for(dropped, 20)
    assert described(port).asr


def test_a_connection_that_cannot_be_closed_is_cut_off(wyoming: Running) -> None:
    """The client has sent everything but not read everything: the connection stayed open, uncounted."""

    class Unread:
        aborted = False

        def close(self) -> None:
            pass

        def abort(self) -> None:
            self.aborted = True

        async def wait_closed(self) -> None:
            await asyncio.Event().wait()

        @property
        def transport(self) -> Unread:
            return self

    async def main() -> bool:
        reader, writer = asyncio.StreamReader(), Unread()
        reader.feed_eof()
        await _Connection(wyoming.service, reader, cast(asyncio.StreamWriter, writer)).run()
        return writer.aborted

    assert asyncio.run(asyncio.wait_for(main(), 10))
