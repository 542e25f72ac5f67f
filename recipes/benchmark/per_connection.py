"""A conventional server: one session per connection, each stepped alone in a thread pool.

    python -m recipes.benchmark.per_connection

It supports enough of vosk-server's protocol for a comparison with `spellstream serve`, with the same model and
settings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import asr
from streaming.engine import Engine
from streaming.events import Event, Final

if TYPE_CHECKING:
    from torch import Tensor


async def talk(connection: ServerConnection, engine: Engine, pool: ThreadPoolExecutor) -> None:
    """Serve one client: each message of PCM (16 kHz) gets an answer."""
    loop, session = asyncio.get_running_loop(), engine.start()
    try:
        async for message in connection:
            if isinstance(message, str) and "config" in message:
                continue
            pcm, final = (b"", True) if isinstance(message, str) else (message, False)
            (session,), (events,) = await loop.run_in_executor(pool, engine.step, [session], [waveform(pcm)], [final])
            await connection.send(json.dumps(answer(events, final)))
            if final:
                return
    except ConnectionClosed:
        pass


def waveform(pcm: bytes) -> Tensor:
    """s16le → float32 `(samples,)`."""
    return torch.from_numpy(np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768)


def answer(events: list[Event], final: bool) -> dict[str, str]:
    """The finished text, or else the partial."""
    finals = [event.text for event in events if isinstance(event, Final)]
    if finals or final:
        return {"text": " ".join(finals)}
    return {"partial": events[-1].text if events else ""}


async def main(arguments: list[str]) -> None:
    """Serve until stopped; the first line of standard output is the address."""
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.per_connection", description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the pool; each step runs on one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    engine = Engine(asr.load(options.model, options.device))
    with ThreadPoolExecutor(options.threads) as pool:
        async with serve(lambda c: talk(c, engine, pool), "127.0.0.1", 0, max_queue=None) as server:
            print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
