"""The Wyoming protocol on a running server with the shipped model: Home Assistant's client, and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import EmailMessage
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from wyoming.asr import Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

import asr
from asr import audio
from asr.text.normalise import normalise
from asr.writing.writer import Writer
from streaming.engine import Engine, StreamConfig
from streaming.events import Final
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.load import Load
from streaming.server.protocols.wyoming import _Connection, _phrases, _project_url
from streaming.server.run import listen
from tests.support.serving import Running, running
from tests.support.tagger import RuleTagger
from tests.support.wyoming import converse, pcm16, transcript

LIMITS = ServerLimits(max_sessions=8, load_share=1.0, idle_seconds=2.0, send_seconds=1.0, max_message_bytes=1 << 20)


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    config = ServerConfig(wyoming_port=port, limits=LIMITS, stream=StreamConfig(style="spoken"))
    with pytest.MonkeyPatch.context() as patch, running(config, shipped_engine) as live:
        patch.setattr(Load, "has_room", lambda *_: True)  # enough for a slow machine
        wait_for(lambda: b"pong" in send(port, line(type="ping")))
        yield live


@pytest.fixture(scope="module")
def port(server: Running) -> int:
    port = server.service.config.wyoming_port
    assert port is not None
    return port


@pytest.fixture(scope="module")
def speech(repository_root: Path) -> torch.Tensor:
    return audio.load(repository_root / "recipes/sample.flac")


@pytest.fixture(scope="module")
def expected(shipped_engine: Engine, speech: torch.Tensor) -> str:
    """The engine's transcript of 16-bit samples, without a server."""
    _, (events,) = shipped_engine.step(
        [shipped_engine.start()], [torch.from_numpy(pcm16(speech) / 32768).float()], [True]
    )
    return " ".join(event.segment.spoken for event in events if isinstance(event, Final))


def send(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send raw bytes, then end of file; returns all bytes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while chunk := client.recv(1 << 16):
            received += chunk
    return received


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def described(port: int) -> Info:
    async def ask() -> Info:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=10) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            assert event is not None
            return Info.from_event(event)

    return asyncio.run(ask())


def test_it_describes_itself(port: int) -> None:
    (program,) = described(port).asr
    assert (program.name, program.version, program.installed) == ("spellstream", asr.__version__, True)
    assert program.supports_transcript_streaming
    (model,) = program.models
    assert (model.name, model.languages) == ("default", ["en"])
    assert model.attribution.name


@pytest.mark.parametrize("urls", [[], ["Documentation, https://example.org/docs", "Source, https://example.org"]])
def test_it_says_where_it_comes_from_if_it_knows(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's URL was empty whatever the package metadata contained."""
    about = EmailMessage()
    for url in urls:
        about["Project-URL"] = url
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    assert _project_url.__wrapped__() == ("https://example.org/docs" if urls else "")


def test_words_come_while_they_are_spoken_and_then_the_whole(port: int, speech: torch.Tensor, expected: str) -> None:
    """Chunks, the committed words, add up to the transcript, which old clients wait for."""
    answers = asyncio.run(converse(port, pcm16(speech).tobytes()))
    kinds = [answer.type for answer in answers]
    chunks = [TranscriptChunk.from_event(answer).text for answer in answers if TranscriptChunk.is_type(answer.type)]
    assert kinds == ["transcript-start", *["transcript-chunk"] * len(chunks), "transcript", "transcript-stop"]
    assert len(chunks) > 1
    assert "".join(chunks) == transcript(answers) == expected != ""


def test_written_text_comes_by_the_segment(
    server: Running, port: int, speech: torch.Tensor, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent text cannot be retracted, and the capitals and marks of a partial may still change."""
    monkeypatch.setattr(server.service, "config", replace(server.service.config, stream=StreamConfig()))
    monkeypatch.setattr(server.service.engine, "writer", Writer(RuleTagger()))
    answers = asyncio.run(converse(port, pcm16(speech).tobytes()))
    chunks = [TranscriptChunk.from_event(answer).text for answer in answers if TranscriptChunk.is_type(answer.type)]
    assert chunks == [transcript(answers)]
    assert chunks[0] != expected
    assert normalise(chunks[0].replace(" —", "")) == expected


def test_words_come_before_the_end_of_the_audio(port: int, speech: torch.Tensor) -> None:
    async def first_chunk() -> str:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=10) as client:
            await client.write_event(AudioStart(16_000, 2, 1).event())
            await client.write_event(AudioChunk(16_000, 2, 1, pcm16(speech).tobytes()).event())
            while (event := await client.read_event()) is not None and not TranscriptChunk.is_type(event.type):
                pass
            assert event is not None
            return TranscriptChunk.from_event(event).text

    assert asyncio.run(first_chunk())


@pytest.mark.parametrize("kind", ["24 bit", "32 bit", "stereo", "cut within samples"])
def test_other_formats_give_the_same_words(port: int, speech: torch.Tensor, expected: str, kind: str) -> None:
    samples = pcm16(speech)
    wide = samples.astype("<i4") << 16
    answers = {
        "24 bit": lambda: converse(port, wide.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes(), width=3),
        "32 bit": lambda: converse(port, wide.tobytes(), width=4),
        "stereo": lambda: converse(port, np.stack([samples, samples], axis=1).tobytes(), channels=2),
        "cut within samples": lambda: converse(port, samples.tobytes(), cut=1999),
    }[kind]()
    assert transcript(asyncio.run(answers)) == expected


def test_eight_bits_and_other_rates_are_understood(port: int, speech: torch.Tensor, expected: str) -> None:
    """8-bit samples and other rates are accepted; conversion changes samples, so some words may differ."""
    bytes_8 = (pcm16(speech).astype(np.int32) // 256 + 128).astype(np.uint8).tobytes()
    at_48k = np.repeat(pcm16(speech), 3).tobytes()
    for answers in (converse(port, bytes_8, width=1), converse(port, at_48k, rate=48_000)):
        said = transcript(asyncio.run(answers))
        assert len(set(said.split()) & set(expected.split())) >= len(expected.split()) // 2, said


def test_many_clients_at_once(port: int, speech: torch.Tensor, expected: str) -> None:
    async def all_at_once() -> list[list[Event]]:
        return await asyncio.gather(*(converse(port, pcm16(speech).tobytes()) for _ in range(5)))

    assert [transcript(answers) for answers in asyncio.run(all_at_once())] == [expected] * 5


def test_one_connection_may_ask_again(port: int, speech: torch.Tensor, expected: str) -> None:
    async def twice() -> list[str]:
        texts = []
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            for pcm in (bytes(32_000), pcm16(speech).tobytes()):
                await client.write_event(AudioStart(16_000, 2, 1).event())
                await client.write_event(Ping("still there?").event())
                await client.write_event(AudioChunk(16_000, 2, 1, pcm).event())
                await client.write_event(AudioStop().event())
                answers = []
                while not answers or answers[-1].type != "transcript-stop":
                    event = await client.read_event()
                    assert event is not None
                    answers.append(event)
                assert {"type": "pong", "data": {"text": "still there?"}} in [answer.to_dict() for answer in answers]
                texts.append(transcript(answers))
        return texts

    assert asyncio.run(twice()) == ["", expected]


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


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
def test_a_client_that_goes_away_leaves_nothing(server: Running, port: int, data: bytes) -> None:
    send(port, data)
    wait_for(lambda: b'spellstream_streams{kind="wyoming"} 1.0' not in server.service.metrics.text())
    assert described(port).asr


def test_a_silent_client_is_dropped(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b'{"type": "des')
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert LIMITS.idle_seconds - 0.5 < time.monotonic() - started < LIMITS.idle_seconds + 3


def test_a_stream_that_goes_silent_is_told_and_counted(server: Running, port: int) -> None:
    """A client that stopped sending within a stream was dropped without a word, and in no metric."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(line(type="audio-start", data=START))
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"nothing was received for 2 s" in received
    assert b'spellstream_cut_total{reason="idle_seconds"} 1.0' in server.service.metrics.text()


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


def test_a_connection_that_cannot_be_closed_is_cut_off(server: Running) -> None:
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
        await _Connection(server.service, reader, cast(asyncio.StreamWriter, writer)).run()
        return writer.aborted

    assert asyncio.run(asyncio.wait_for(main(), 10))


def test_beyond_the_sessions_there_may_be_clients_are_refused(port: int) -> None:
    """Clients beyond max_sessions are refused, while admitted ones continue."""

    async def crowd() -> tuple[list[str], list[Event]]:
        clients = [AsyncTcpClient("127.0.0.1", port, read_timeout=10) for _ in range(LIMITS.max_sessions)]
        for client in clients:
            await client.connect()
            await client.write_event(AudioStart(16_000, 2, 1).event())
            event = await client.read_event()
            assert event is not None
            assert event.type == "transcript-start"
        refused = await converse(port, bytes(32_000))
        kinds = []
        for client in clients:
            await client.write_event(AudioStop().event())
            event = await client.read_event()
            assert event is not None
            kinds.append(event.type)
            await client.disconnect()
        return kinds, refused

    kinds, refused = asyncio.run(crowd())
    assert kinds == ["transcript"] * LIMITS.max_sessions
    assert (refused[-1].type, refused[-1].data["code"]) == ("error", "overloaded")


def test_a_server_that_is_stopped_says_what_it_has_heard(
    shipped_engine: Engine, speech: torch.Tensor, expected: str
) -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]

    async def interrupted(live: Running) -> str:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            await client.write_event(AudioStart(16_000, 2, 1).event())
            await client.write_event(AudioChunk(16_000, 2, 1, pcm16(speech).tobytes()).event())
            kinds: list[str] = []
            while "transcript" not in kinds:
                event = await client.read_event()
                assert event is not None
                kinds.append(event.type)
                if kinds == ["transcript-start", "transcript-chunk"]:
                    live.stop()
            return Transcript.from_event(event).text

    config = ServerConfig(wyoming_port=port, grace_seconds=20, stream=StreamConfig(style="spoken"))
    with running(config, shipped_engine) as live:
        wait_for(lambda: b"pong" in send(port, line(type="ping")))
        said = asyncio.run(interrupted(live))
    assert said
    assert expected.startswith(said.rsplit(" ", 1)[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_names_and_terms_are_listened_for(port: int, speech: torch.Tensor, expected: str) -> None:
    """Terms have less weight than names; what cannot be spelled is left out, and other types are refused."""
    asked = Event("transcribe", {"transcript_names": ["Siobhán", "a:0"], "transcript_terms": ["garage door"]})
    assert _phrases(asked) == ["Siobhán:1", "a:0:1", "garage door:0.5"]
    assert _phrases(Event("transcribe", {"transcript_names": None})) == []
    for wrong in ("Siobhán", [1], {"a": 1}):
        assert b"must be lists of strings" in send(port, line(type="transcribe", data={"transcript_terms": wrong}))

    async def hear() -> str:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=30) as client:
            names = ["Old Man", "\u6771\u4eac"]
            await client.write_event(Event("transcribe", {"transcript_names": names}))
            await client.write_event(AudioChunk(16_000, 2, 1, pcm16(speech).tobytes()).event())
            await client.write_event(AudioStop().event())
            while (event := await client.read_event()) is not None and not Transcript.is_type(event.type):
                assert event.type != "error"
            assert event is not None
            return Transcript.from_event(event).text

    assert asyncio.run(hear()).split()[:2] == expected.split()[:2]
