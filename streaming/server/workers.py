"""The workers: streams divided over processes, and jobs for whichever worker is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from streaming.engine import Engine
from streaming.server.config import ServerLimits
from streaming.server.errors import engine_failed
from streaming.server.jobs import Jobs
from streaming.server.load import Load
from streaming.server.metrics import Metrics
from streaming.server.worker import Worker

__all__ = ["Workers"]


class Workers:
    """Workers that are started and closed together.

    A stream stays with one worker, whose batch it is part of. A failed step ends the streams of that worker only; a
    worker that fails for good makes all of them unhealthy, since only a restart of the process helps.

    Args:
        engine: from now on used by the single worker alone, or copied to each of several.
        limits: the server's limits.
        metrics: the server's metrics.
        threads: the number of workers. With several, each steps its streams in a process of its own, with one PyTorch
            thread; a single one steps them in a thread, with as many PyTorch threads as are set.
    """

    def __init__(self, engine: Engine, limits: ServerLimits, metrics: Metrics, threads: int = 1) -> None:
        self._jobs = Jobs(self._wake, metrics)
        self._each = tuple(Worker(engine, limits, metrics, self._jobs, threads > 1) for _ in range(threads))

    def __len__(self) -> int:
        return len(self._each)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._each)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return sum(len(worker.streams) for worker in self._each)

    @property
    def started(self) -> bool:
        return all(worker.started for worker in self._each)

    @property
    def healthy(self) -> bool:
        """Whether all streams are being stepped; if not, only a restart of the process helps."""
        return all(worker.healthy for worker in self._each)

    @property
    def busy_seconds(self) -> float:
        """How long the longest of the current calls has been running; 0 when all workers are idle."""
        return max(worker.busy_seconds for worker in self._each)

    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio, recently."""
        turns = sorted(turn for worker in self._each for turn in worker.load.turns)
        return Load(tuple(turns)).real_time_factor(time.monotonic())

    async def start(self) -> None:
        """Warm them up, then start the turns."""
        await asyncio.gather(*(worker.start() for worker in self._each))

    async def close(self) -> None:
        """End the turns and cancel waiting jobs."""
        for worker in self._each:
            await worker.stop()
        self._jobs.cancel_all()
        await asyncio.gather(*(worker.close() for worker in self._each))

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a job: see `Service.run` and `Service.run_steps`."""
        if not all(worker.running for worker in self._each):
            raise engine_failed()
        return await self._jobs.submit(function, *args)

    def _wake(self) -> None:
        """Let a job be taken, preferably by the worker with the fewest streams."""
        for worker in sorted(self._each, key=lambda worker: len(worker.streams)):
            worker.wake()
