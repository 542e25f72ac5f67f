"""Jobs in slices: streams go first, files take turns, and cancelled jobs do no more work."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asr.steps import Steps
from streaming.engine import Engine
from streaming.server import engine_side
from streaming.server.config import ServerLimits
from streaming.server.jobs import Jobs
from streaming.server.metrics import Metrics
from streaming.server.runners import ThreadRunner


@pytest.fixture(autouse=True)
def one_step_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_side, "_SLICE_SECONDS", 0.0)


def run(use: Callable[[Jobs], Any]) -> None:
    """Let `use` submit jobs, then run all of them, slice by slice."""

    async def whole() -> None:
        thread = ThreadRunner(cast(Engine, SimpleNamespace(chunk_samples=6_400, recogniser=None)), ServerLimits())
        jobs = Jobs(lambda: None, Metrics())
        using = asyncio.ensure_future(use(jobs))
        await asyncio.sleep(0)
        while jobs.has_for(thread):
            await jobs.run_next(thread)
        await using
        await thread.close()

    asyncio.run(whole())


def counting(recogniser: object, said: list[str], name: str, count: int) -> Steps[str]:
    """Work that records its name at every step, and that it was closed."""
    try:
        for _ in range(count):
            said.append(name)
            yield
    finally:
        said.append(f"{name} closed")
    return name.upper()


def test_jobs_take_turns_step_by_step() -> None:
    """A short file is done before a long one that began earlier; a plain function takes one turn."""
    said: list[str] = []

    async def use(jobs: Jobs) -> None:
        waiting = [jobs.submit(counting, said, "long", 3), jobs.submit(counting, said, "short", 1)]
        plain = jobs.submit(lambda recogniser, text: said.append(text), "plain")
        assert await asyncio.gather(*waiting, plain) == ["LONG", "SHORT", None]

    run(use)
    assert said == ["long", "short", "plain", "long", "short closed", "long", "long closed"]


def test_a_job_that_is_cancelled_ends_after_its_slice() -> None:
    said: list[str] = []

    async def use(jobs: Jobs) -> None:
        future = jobs.submit(counting, said, "gone", 100)
        other = jobs.submit(counting, said, "other", 2)
        other.add_done_callback(lambda _: future.cancel())
        assert await other == "OTHER"
        assert (await asyncio.gather(future, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    run(use)
    gc.collect()
    assert said.count("gone") <= 4
    assert said[-1] == "gone closed"


def test_a_job_that_fails_at_a_step_tells_so_and_the_engine_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(engine_side, "warm_up", lambda engine: tried.append(1))

    def failing(recogniser: object) -> Steps[None]:
        yield
        raise ValueError("the second step")

    async def use(jobs: Jobs) -> None:
        with pytest.raises(ValueError, match="the second step"):
            await jobs.submit(failing)

    run(use)
    assert tried == [1]
