"""Jobs in slices: streams go first, files take turns, and cancelled jobs do no more work."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from asr.steps import Steps
from streaming.server import jobs as module
from streaming.server.engine_thread import EngineThread
from streaming.server.jobs import Jobs
from streaming.server.metrics import Metrics


@pytest.fixture(autouse=True)
def one_step_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE_SECONDS", 0.0)


def run(use: Callable[[Jobs], Any], trial: Callable[[], None] = lambda: None) -> None:
    """Let `use` submit jobs, then run all of them, slice by slice."""

    async def whole() -> None:
        thread = EngineThread()
        jobs = Jobs(lambda: None, Metrics())
        using = asyncio.ensure_future(use(jobs))
        await asyncio.sleep(0)
        while jobs:
            await jobs.run_next(thread, trial)
        await using
        await thread.close()

    asyncio.run(whole())


def counting(said: list[str], name: str, count: int) -> Steps[str]:
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
        plain = jobs.submit(said.append, "plain")
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


def test_a_job_that_fails_at_a_step_tells_so_and_the_engine_is_tried() -> None:
    tried: list[int] = []

    def failing() -> Steps[None]:
        yield
        raise ValueError("the second step")

    async def use(jobs: Jobs) -> None:
        with pytest.raises(ValueError, match="the second step"):
            await jobs.submit(failing)

    run(use, lambda: tried.append(1))
    assert tried == [1]
