"""Memory of a server stays flat over twenty minutes of streams that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import asr
from recipes.benchmark.serve import Peer, started

MINUTES = float(os.environ.get("SPELLSTREAM_SOAK_MINUTES", "20"))
CLIENTS = 6
GROWTH = 1.05


@pytest.mark.slow
def test_memory_stays_flat_while_streams_come_and_go(repository_root: Path) -> None:
    """Streams that finish, leave within a word, stay silent or send nonsense, and uploads, leave no memory behind."""
    waveform = asr.audio.load(repository_root / "recipes" / "sample.flac")
    pcm = (waveform.clamp(-1, 1) * 32767).short().numpy().tobytes()
    command = [
        sys.executable,
        "-m",
        "asr",
        "serve",
        "--port",
        "0",
        "--device",
        "cpu",
        "--load-share",
        "100",
    ]
    with started("spellstream serve", command, "http://127.0.0.1:") as peer:
        first, last, served = asyncio.run(soak(peer, pcm))
    assert served > 10 * MINUTES
    assert last <= GROWTH * first, f"{first >> 20} MiB after a minute, {last >> 20} MiB after {MINUTES:g}"


async def soak(peer: Peer, pcm: bytes) -> tuple[int, int, int]:
    """Resident bytes after the first minute and at the end, and the number of streams."""
    end = time.monotonic() + 60 * MINUTES
    served = 0

    async def client(number: int) -> None:
        nonlocal served
        generator = random.Random(number)
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ConnectionClosed, asyncio.TimeoutError):
                await asyncio.wait_for(visit(peer.url, pcm, generator), 60)
                served += 1
            await asyncio.sleep(generator.uniform(0, 0.5))

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(min(60.0, 30 * MINUTES))
    first = peer.memory_bytes()
    await asyncio.gather(*clients)
    return first, peer.memory_bytes(), served


async def visit(url: str, pcm: bytes, generator: random.Random) -> None:
    """A stream of a random kind."""
    rate, kind = generator.choice([8000, 16_000, 44_100]), generator.randrange(6)
    async with connect(url) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": rate, "words": generator.randrange(2)}}))
        length = generator.randrange(1, len(pcm))
        for start in range(0, length, 6400):
            await socket.send(pcm[start : start + 6400])
            await socket.recv()
            if kind == 0 and start > length // 2:
                return  # without a word
            if kind == 1 and start > length // 2:
                await socket.send("nonsense")
        await socket.send('{"reset": 1}' if kind == 2 else '{"eof": 1}')
        await socket.recv()
