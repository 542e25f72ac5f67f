"""A Wyoming client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info

from streaming.engine import Engine, StreamConfig
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.load import Load
from streaming.server.run import listen
from tests.support.serving import Running, running

__all__ = ["LIMITS", "converse", "described", "line", "pcm16", "send", "transcript", "wait_for", "wyoming_server"]

LIMITS = ServerLimits(max_sessions=8, load_share=1.0, idle_seconds=2.0, send_seconds=1.0, max_message_bytes=1 << 20)


@contextlib.contextmanager
def wyoming_server(engine: Engine) -> Iterator[Running]:
    """A running server that also speaks Wyoming, in the spoken style."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    config = ServerConfig(wyoming_port=port, limits=LIMITS, stream=StreamConfig(style="spoken"))
    with pytest.MonkeyPatch.context() as patch, running(config, engine) as live:
        patch.setattr(Load, "has_room", lambda *_: True)  # enough for a slow machine
        wait_for(lambda: b"pong" in send(port, line(type="ping")))
        yield live


def pcm16(waveform: torch.Tensor) -> NDArray[np.int16]:
    return (waveform.numpy() * 32767).astype("<i2")


async def converse(
    port: int,
    pcm: bytes,
    rate: int = 16_000,
    width: int = 2,
    channels: int = 1,
    cut: int = 2048,
    started: bool = True,
) -> list[Event]:
    """Send one utterance as Home Assistant does; returns all events up to the transcript-stop.

    An audio-start comes first if `started`.
    """
    async with AsyncTcpClient("127.0.0.1", port, read_timeout=30) as client:
        await client.write_event(Transcribe(language="en").event())
        if started:
            await client.write_event(AudioStart(rate, width, channels).event())
        for at in range(0, len(pcm), cut):
            await client.write_event(AudioChunk(rate, width, channels, pcm[at : at + cut]).event())
        await client.write_event(AudioStop().event())
        answers: list[Event] = []
        while not answers or answers[-1].type not in ("transcript-stop", "error"):
            event = await client.read_event()
            assert event is not None, f"closed after {[answer.type for answer in answers]}"
            answers.append(event)
        return answers


def transcript(answers: list[Event]) -> str:
    (found,) = (answer for answer in answers if Transcript.is_type(answer.type))
    return Transcript.from_event(found).text


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


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
