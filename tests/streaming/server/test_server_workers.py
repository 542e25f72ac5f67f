"""Several workers, with threads in place of processes: each steps its own streams, jobs run in whichever is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from asr.errors import SpellstreamError
from asr.steps import Steps
from asr.transcript import Segment
from streaming.engine import Engine
from streaming.events import Event, Final
from streaming.server import admission, engine_side
from streaming.server import worker as module
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.errors import OverloadError
from streaming.server.runners import ThreadRunner
from streaming.server.service import Service
from streaming.server.stream import Stream

LIMITS = ServerLimits(load_share=100)
FAULT, HANG = 0.5, 1.0  # values of a sample at which the stub fails or hangs


@dataclass(frozen=True)
class Heard:
    """A stub session that counts its samples."""

    samples: int = 0


class Trap:
    """A stub engine: its audio may raise a fault, or block it until released."""

    def __init__(self) -> None:
        self.recogniser, self.device = SimpleNamespace(), torch.device("cpu")
        self.chunk_samples = 6_400
        self.released, self.held = threading.Event(), threading.Event()

    def start(self, hotwords: object = None, style: object = None) -> Heard:
        return Heard()

    def step(
        self, sessions: Sequence[Heard], chunks: Sequence[Tensor], final: Sequence[bool]
    ) -> tuple[list[Heard], list[list[Event]]]:
        for chunk in chunks:
            if FAULT in chunk:
                raise RuntimeError("a fault")
            if HANG in chunk:
                self.held.set()
                self.released.wait(20)
        now = [replace(s, samples=s.samples + len(c)) for s, c in zip(sessions, chunks, strict=True)]
        said = [Final(Segment(str(s.samples), 0.0, 0.0, 0.0), 0.0) for s in now]
        return now, [[event] if end else [] for event, end in zip(said, final, strict=True)]


Use = Callable[[Service, Any], Coroutine[Any, Any, None]]


def run(use: Use, engine: Any, threads: int = 2, limits: ServerLimits = LIMITS) -> None:
    """Run a coroutine with a service whose workers share the engine."""

    async def main() -> None:
        service = Service(cast(Engine, engine), ServerConfig(limits=limits, threads=threads))
        async with service.running():
            await asyncio.wait_for(use(service, engine), 60)

    asyncio.run(main())


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Trap:
    monkeypatch.setattr(engine_side, "warm_up", lambda engine: None)
    monkeypatch.setattr(module, "ProcessRunner", ThreadRunner)  # a stub cannot be sent to a process
    return Trap()


async def text(stream: Stream) -> str:
    stream.finish()
    return " ".join([event.text async for event in stream.events() if isinstance(event, Final)])


def test_streams_are_divided_and_a_fault_ends_only_those_of_its_thread(trap: Trap) -> None:
    async def use(service: Service, engine: Trap) -> None:
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(service.stream()) for _ in range(6)]
            one, other = (list(worker.streams) for worker in service.workers)
            assert (len(one), len(other), service.open_streams) == (3, 3, 6)
            assert {*one, *other} == set(streams)

            await one[0].push(torch.full((1600,), FAULT))
            for stream in one:
                with pytest.raises(SpellstreamError, match="failed to continue"):
                    await text(stream)
            for stream in other:
                await stream.push(torch.zeros(1600))
            assert [await text(stream) for stream in other] == ["1600"] * 3
            assert service.healthy

    run(use, trap)


def test_a_thread_that_is_held_keeps_neither_new_streams_nor_jobs_waiting(
    trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WINDOW_SECONDS", 0.01)

    async def use(service: Service, engine: Trap) -> None:
        async with service.stream() as held:
            await held.push(torch.full((1600,), HANG))
            await asyncio.to_thread(engine.held.wait, 20)
            await asyncio.sleep(0.02)
            for _ in range(2):  # though the second has a stream for each of the first's
                async with service.stream() as stream, service.stream() as second:
                    await stream.push(torch.zeros(800))
                    assert await text(stream) == "800"
                    assert await text(second) == "0"

            def names(recogniser: object) -> Steps[set[str]]:
                found = set()
                for _ in range(3):
                    found.add(threading.current_thread().name)
                    yield
                return found

            found = await asyncio.gather(*(service.run_steps(names) for _ in range(2)))
            assert len(set[str]().union(*found)) == 1
            engine.released.set()
            assert await text(held) == "1600"

    run(use, trap)


def test_all_threads_together_take_no_more_streams_than_allowed(trap: Trap) -> None:
    async def use(service: Service, engine: Trap) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(service.stream())
            with pytest.raises(OverloadError, match="3 streams are open, which is the limit"):
                await stack.enter_async_context(service.stream())
            assert b'spellstream_refused_total{reason="sessions"} 1.0' in service.metrics.text()

    run(use, trap, limits=replace(LIMITS, max_sessions=3))
