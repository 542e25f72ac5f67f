"""The Wyoming protocol on a running server with the shipped model: Home Assistant's client."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from email.message import EmailMessage
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from wyoming.asr import Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.ping import Ping

import asr
from asr import audio
from asr.text.normalise import normalise
from asr.writing.writer import Writer
from streaming.engine import Engine, StreamConfig
from streaming.events import Final
from streaming.server.config import ServerConfig
from streaming.server.protocols.wyoming import _phrases, _project_url
from streaming.server.run import listen
from tests.support.serving import Running, running
from tests.support.tagger import RuleTagger
from tests.support.wyoming import LIMITS, converse, described, line, pcm16, send, transcript, wait_for


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
    wyoming: Running, port: int, speech: torch.Tensor, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent text cannot be retracted, and the capitals and marks of a partial may still change."""
    monkeypatch.setattr(wyoming.service, "config", replace(wyoming.service.config, stream=StreamConfig()))
    monkeypatch.setattr(wyoming.service.engine, "writer", Writer(RuleTagger()))
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
