"""Several workers, each of which steps its streams in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import asr
from asr.errors import AudioError, SpellstreamError
from asr.recogniser import Recogniser
from asr.steps import Steps
from streaming.endpoint import EndpointConfig
from streaming.engine import Engine, StreamConfig
from streaming.events import Final
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.errors import LimitError
from streaming.server.runners import ProcessRunner
from streaming.server.service import Service
from streaming.server.stream import Stream
from tests.support.small_model import small_model

ALL_SPEECH = StreamConfig(endpoint=EndpointConfig(speech_threshold=1e-9, silence_threshold=1e-9), style="spoken")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(asr.load(str(small_model(tmp_path_factory.mktemp("model"))), "cpu"), ALL_SPEECH)


def run(use: Callable[[Service], Coroutine[Any, Any, None]], engine: Engine) -> None:
    """Run a coroutine with a service of two workers."""

    async def main() -> None:
        service = Service(engine, ServerConfig(limits=ServerLimits(load_share=100), threads=2))
        async with service.running():
            await asyncio.wait_for(use(service), 60)

    asyncio.run(main())


async def text(stream: Stream) -> str:
    stream.finish()
    return " ".join([event.text async for event in stream.events() if isinstance(event, Final)])


def noise(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.3 * torch.randn(24_000, generator=generator) for _ in range(count)]


def process_ids(service: Service) -> list[int]:
    """The process of each worker."""
    sides = [worker._runner for worker in service.workers]
    return [next(iter(side._executor._processes)) for side in sides if isinstance(side, ProcessRunner)]


def test_processes_hear_what_one_engine_hears(engine: Engine) -> None:
    """Streams in parallel processes get the results of a single engine, at their own sample rate and in order."""
    audio, alone = noise(5), []
    for waveform in audio:
        _, ((*_, final),) = engine.step([engine.start()], [waveform], [True])
        alone.append(final.text)
    assert len(set(alone)) == len(audio)

    async def use(service: Service) -> None:
        async def hear(waveform: Tensor) -> str:
            async with service.stream() as stream:
                for chunk in waveform.split(4_000):
                    await stream.push(chunk)
                return await text(stream)

        assert await asyncio.gather(*map(hear, audio)) == alone
        assert len({os.getpid(), *process_ids(service)}) == 3

    run(use, engine)


def test_a_process_that_dies_ends_its_own_streams_and_another_takes_its_place(engine: Engine) -> None:
    """A process can be killed for its memory; the server goes on, and reports health once streams are heard again."""

    async def use(service: Service) -> None:
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(service.stream()) for _ in range(4)]
            for stream in streams:
                await stream.push(noise(1)[0])
            await asyncio.gather(*(stream.heard(20) for stream in streams))
            one, other = (list(worker.streams) for worker in service.workers)

            first, second = process_ids(service)
            os.kill(first, signal.SIGKILL)
            for stream in one:
                with suppress(SpellstreamError):
                    await stream.push(noise(1)[0])
                with pytest.raises(SpellstreamError, match="failed to continue"):
                    await text(stream)
            assert all([await text(stream) for stream in other])
        async with service.stream() as again:
            await again.push(noise(1)[0])
            assert await text(again)
        assert service.healthy
        assert process_ids(service)[1] == second
        assert process_ids(service)[0] != first

    run(use, engine)


def own_id(recogniser: Recogniser) -> Steps[set[int]]:
    """The process of each step."""
    found = set()
    for _ in range(3):
        found.add(os.getpid())
        yield
        time.sleep(0.06)  # longer than a slice
    return found


def failing(recogniser: Recogniser, error: Exception) -> None:
    raise error


def test_jobs_run_in_the_processes_each_in_one(engine: Engine) -> None:
    async def use(service: Service) -> None:
        found = await asyncio.gather(*(service.run_steps(own_id) for _ in range(4)))
        assert all(len(ids) == 1 for ids in found)
        assert set[int]().union(*found) == set(process_ids(service))

    run(use, engine)


def test_an_error_in_a_process_arrives_whatever_it_is_made_of(engine: Engine) -> None:
    """An error that cannot be made from its arguments would break the connection to the process."""

    async def use(service: Service) -> None:
        before = process_ids(service)
        with pytest.raises(AudioError, match=r"a\.wav: is cut"):
            await service.run(failing, AudioError("a.wav", "is cut"))
        with pytest.raises(RuntimeError, match="LimitError: too much"):
            await service.run(raising_a_limit)
        assert process_ids(service) == before

    run(use, engine)


def raising_a_limit(recogniser: Recogniser) -> None:
    raise LimitError("too much", "max_events")


def test_processes_end_with_a_server_that_is_killed(engine: Engine) -> None:
    """Without it they would wait for calls forever, each with the memory of a model."""
    program = f"""
import asyncio, sys
import asr
from streaming.engine import Engine
from streaming.server.config import ServerLimits
from streaming.server.runners import ProcessRunner
from streaming.server.errors import LimitError
from streaming.server.engine_side import EngineSide

async def main():
    process = ProcessRunner(Engine(asr.load({str(engine.recogniser.folder)!r}, "cpu")), ServerLimits())
    await process.run(EngineSide.warm_up)
    print(next(iter(process._executor._processes)), flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""
    script = Path(engine.recogniser.folder) / "server.py"
    script.write_text(program)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        server.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.05)


def _state(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"
