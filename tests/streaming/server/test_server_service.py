"""The service between clients and the engine: bounds, dropped streams, failures, stop, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from asr.errors import AudioError, SpellstreamError
from asr.transcript import Segment
from streaming.engine import Engine
from streaming.events import Event, Final
from streaming.server import engine_side
from streaming.server.config import ServerConfig, ServerLimits
from streaming.server.errors import LimitError, OverloadError
from streaming.server.service import Service

SECOND = b"\1\0" * 16_000
ROOMY = ServerLimits(load_share=100)


@dataclass(frozen=True)
class Heard:
    """A stub session that counts its samples."""

    samples: int = 0
    missing: int = 0

    def skip(self, samples: int) -> Heard:
        return replace(self, missing=self.missing + samples)


class Counter:
    """A stub engine: the end of a stream yields the numbers of samples heard and missing."""

    def __init__(self) -> None:
        self.recogniser = SimpleNamespace()
        self.chunk_samples = 9_600
        self.may_step = threading.Event()
        self.may_step.set()
        self.steps = 0
        self.fail = False

    def start(self, hotwords: object = None, style: object = None) -> Heard:
        return Heard()

    def step(
        self, sessions: Sequence[Heard], chunks: Sequence[Tensor], final: Sequence[bool]
    ) -> tuple[list[Heard], list[list[Event]]]:
        self.may_step.wait(20)
        self.steps += 1
        if self.fail:
            raise RuntimeError("a fault")
        now = [replace(s, samples=s.samples + len(c)) for s, c in zip(sessions, chunks, strict=True)]
        said = [Final(Segment(f"{s.samples} {s.missing}", 0.0, 0.0, 0.0), 0.0) for s in now]
        return now, [[event] if end else [] for event, end in zip(said, final, strict=True)]


Use = Callable[[Service, Counter], Coroutine[Any, Any, None]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a coroutine with a service on a counter."""
    monkeypatch.setattr(engine_side, "warm_up", lambda engine: None)

    def run(use: Use, limits: ServerLimits = ROOMY) -> None:
        async def main() -> None:
            engine = Counter()
            service = Service(cast(Engine, engine), ServerConfig(limits=limits))
            async with service.running():
                await asyncio.wait_for(use(service, engine), 20)

        asyncio.run(main())

    return run


@contextlib.asynccontextmanager
async def held(engine: Counter) -> AsyncIterator[None]:
    """Block the engine's steps."""
    engine.may_step.clear()
    try:
        yield
    finally:
        engine.may_step.set()


def parsed(recogniser: object, text: str) -> Any:
    return json.loads(text)


async def texts(stream: Any) -> list[str]:
    return [event.text async for event in stream.events()]


@pytest.mark.parametrize("sample_rate", [16_000, 8_000])
def test_all_that_is_pushed_is_heard_however_it_is_cut(serve: Any, sample_rate: int) -> None:
    """All pushed audio is heard, however it is cut; an odd byte waits for its second half."""

    async def use(service: Service, engine: Counter) -> None:
        async with service.stream(sample_rate) as stream:
            for start in range(0, 2 * sample_rate * 2, 333):
                await stream.push((SECOND * 2)[start : min(start + 333, 2 * sample_rate * 2)])
            stream.finish()
            assert await texts(stream) == ["32000 0"]

    serve(use)


def test_what_is_open_is_finished_on_request_and_the_stream_goes_on(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream(8_000) as stream:
            await stream.push(b"\1\0" * 8_000)
            await stream.flush()
            assert [event.text for event in stream.take()] == ["16000 0"]
            await stream.push(b"\1\0" * 8_000)
            stream.finish()
            assert await texts(stream) == ["32000 0"]
            with pytest.raises(SpellstreamError, match="finished"):
                await stream.push(b"\1\0")

    serve(use)


def test_a_client_that_is_too_fast_has_to_wait(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            async with held(engine):
                pushing = asyncio.ensure_future(stream.push(SECOND * 20))
                await asyncio.wait((pushing,), timeout=0.1)
                assert not pushing.done()
                assert stream.waiting_seconds < service.limits.max_behind_seconds
                assert not await stream.heard(timeout_seconds=0.01)
            await pushing
            stream.finish()
            assert await texts(stream) == ["320000 0"]
        assert stream.dropped_seconds == 0

    serve(use)


def test_a_live_one_loses_the_oldest_and_is_told_how_much(serve: Any) -> None:
    """A live stream's push waits for the current step at most, and drops the oldest audio, so memory is bounded."""

    async def use(service: Service, engine: Counter) -> None:
        async with service.stream(live=True) as stream:
            async with held(engine):
                await stream.push(SECOND[:1000])
                await asyncio.sleep(0.05)
                await stream.push(SECOND * 5)
                pushing = asyncio.ensure_future(stream.push(SECOND * 10))
                await asyncio.wait((pushing,), timeout=0.1)
                assert not pushing.done()
            await pushing
            stream.finish()
            last = (await texts(stream))[-1]
        heard, missing = map(int, last.split())
        assert missing == round(stream.dropped_seconds * 16_000) > 0
        assert heard + missing == 500 + 15 * 16_000

    serve(use)


def test_a_stream_that_nobody_reads_is_dropped(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream, service.stream() as other:
            for _ in range(4):
                await stream.push(SECOND)
                await stream.flush()
            for use_it in (stream.push(SECOND), texts(stream)):
                with pytest.raises(LimitError, match="3 events are unread"):
                    await use_it
            await other.push(SECOND)
            other.finish()
            assert await texts(other) == ["16000 0"]

    serve(use, replace(ROOMY, max_events=3))


def test_a_stream_may_not_go_on_for_ever(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            await stream.push(SECOND)
            with pytest.raises(LimitError, match="longer than 2 s"):
                await stream.push(SECOND * 2)
            stream.finish()
            assert await texts(stream) == ["32000 0"]

    serve(use, replace(ROOMY, max_stream_seconds=2))


@pytest.mark.parametrize("audio", [torch.tensor([torch.nan]), torch.zeros(3, dtype=torch.int16)])
def test_odd_audio_is_refused(serve: Any, audio: Tensor) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            with pytest.raises(AudioError):
                await stream.push(audio)
            with pytest.raises(AudioError, match="sample rate is 7 Hz"):
                async with service.stream(7):
                    pass
        assert service.open_streams == 0

    serve(use)


def test_no_more_streams_than_there_is_room_for(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream():
            async with service.stream() as second:
                await second.push(SECOND)
                with pytest.raises(OverloadError, match="2 streams are open"):
                    async with service.stream():
                        pass
            async with service.stream() as third:  # at once, though the engine still holds the second
                await third.push(SECOND)
                third.finish()
                assert await texts(third) == ["16000 0"]

    serve(use, replace(ROOMY, max_sessions=2))


def test_no_more_streams_once_those_that_are_open_get_late(serve: Any) -> None:
    """No streams are admitted once open ones are late; the late one is heard to its end."""

    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            async with held(engine):
                await stream.push(SECOND[:3200])
                await asyncio.sleep(0.4)
            await stream.heard()
            with pytest.raises(OverloadError, match="busy"):
                async with service.stream():
                    pass
            stream.finish()
            assert await texts(stream) == ["1600 0"]
        assert b'refused_total{reason="load"} 1.0' in service.metrics.text()

    serve(use, ServerLimits(load_share=0.5))


def test_a_fault_of_the_engine_ends_the_streams_but_not_the_service(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with contextlib.AsyncExitStack() as stack, service.stream() as other:
            stream = await stack.enter_async_context(service.stream())
            engine.fail = True
            await stream.push(SECOND)
            with pytest.raises(SpellstreamError, match="failed to continue"):
                await texts(stream)
            engine.fail = False
            with pytest.raises(SpellstreamError, match="failed to continue"):
                await other.push(SECOND)
            async with service.stream() as new:
                await new.push(SECOND)
                await new.heard()
                await stack.aclose()  # the failed stream is dropped only now, without effect on others
                await new.push(SECOND)
                new.finish()
                assert await texts(new) == ["32000 0"]
        assert service.healthy

    serve(use)


def test_an_engine_that_keeps_failing_is_reported(serve: Any) -> None:
    """Successful files reset the count of failed steps, so an engine that kept failing was never reported."""

    async def use(service: Service, engine: Counter) -> None:
        engine.fail = True
        for _ in range(3):
            assert await service.run(parsed, "7") == 7
            async with service.stream() as stream:
                await stream.push(SECOND)
                waiting = asyncio.ensure_future(service.run(parsed, "7"))
                await stream.heard()
        with pytest.raises(OverloadError, match="engine has failed"):
            await waiting
        assert not service.healthy

    serve(use)


def test_files_that_fail_do_not_end_a_service_whose_engine_works(serve: Any) -> None:
    """One client that sent the same file three times ended the server for all."""

    async def use(service: Service, engine: Counter) -> None:
        for _ in range(5):
            with pytest.raises(ValueError, match="Expecting value"):
                await service.run(parsed, "no JSON")
        assert (await service.run(parsed, "7"), service.healthy) == (7, True)
        assert b"spellstream_failures_total 5.0" in service.metrics.text()

    serve(use)


def test_an_engine_that_keeps_failing_files_is_reported_too(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost device went unnoticed if all clients upload: each got a 500 from a server that reported health."""

    async def use(service: Service, engine: Counter) -> None:
        monkeypatch.setattr(engine_side, "warm_up", lambda engine: 1 / 0)
        for n, text in enumerate(("no JSON", "7", "no JSON", "no JSON", "no JSON")):
            assert service.healthy, n
            with contextlib.suppress(ValueError):
                await service.run(parsed, text)
        deadline = time.monotonic() + 10
        while service.healthy:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    serve(use)


def test_functions_take_turns_with_the_streams(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        threads = set()

        def work(recogniser: object, n: int) -> int:
            threads.add(threading.current_thread().name)
            if n == 3:
                raise ValueError("three")
            return n * n

        async with service.stream() as stream:
            pushing = asyncio.ensure_future(stream.push(SECOND * 10))
            done = await asyncio.gather(*(service.run(work, n) for n in range(5)), return_exceptions=True)
            await pushing
            stream.finish()
            assert await texts(stream) == ["160000 0"]
        assert [x for x in done if not isinstance(x, Exception)] == [0, 1, 4, 16]
        assert isinstance(done[3], ValueError)
        (name,) = threads
        assert name.startswith("spellstream-engine")

    serve(use)


def test_an_idle_service_does_nothing(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No busy waiting, neither without streams nor for a silent one."""

    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            await stream.push(SECOND)
            await stream.heard()
            (worker,) = service.workers
            steps, turns, real = engine.steps, [], worker._turn
            monkeypatch.setattr(worker, "_turn", lambda: turns.append(1) or real())
            await asyncio.sleep(0.2)
            assert (engine.steps - steps, turns) == (0, [])

    serve(use)


def test_a_service_that_drains_takes_nothing_new_and_waits_for_what_is_open(serve: Any) -> None:
    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            await stream.push(SECOND)
            draining = asyncio.ensure_future(service.stop.drain())
            await service.stop.requested.wait()
            with pytest.raises(OverloadError, match="being stopped"):
                async with service.stream():
                    pass
            assert not draining.done()
            stream.finish()
            assert await texts(stream) == ["16000 0"]
        await draining

    serve(use)


def test_a_fault_outside_of_a_step_ends_the_service(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ended silently: clients waited forever for a server that reported readiness."""

    async def use(service: Service, engine: Counter) -> None:
        async with service.stream() as stream:
            (worker,) = service.workers
            monkeypatch.setattr(worker, "_measure", lambda *_: 1 / 0)
            await stream.push(SECOND)
            waiting = asyncio.ensure_future(service.run(parsed, "7"))
            with pytest.raises(SpellstreamError, match="the server has failed"):
                await texts(stream)
            for use_it in (waiting, service.run(parsed, "7")):
                with pytest.raises(OverloadError, match="engine has failed"):
                    await use_it
        assert not service.healthy
        with pytest.raises(OverloadError, match="engine has failed"):
            async with service.stream():
                pass

    serve(use)
