"""A Wyoming client."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

__all__ = ["converse", "pcm16", "transcript"]


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
