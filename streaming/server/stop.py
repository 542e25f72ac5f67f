"""Orderly stop: new work is refused, and open work gets the grace period to finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from streaming.server.errors import OverloadError

__all__ = ["Stop"]

T = TypeVar("T")
_WORK_SHARE = 0.7  # of the grace period; the rest is for telling clients about unfinished work


class Stop:
    """State of a stop: whether it has begun, and the work to wait for.

    Args:
        grace_seconds: the grace period.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.requested = asyncio.Event()
        self._grace_seconds = grace_seconds
        self._requested_at = 0.0
        self._conversations = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self) -> None:
        """Request the stop, and wait until all conversations are over."""
        self._requested_at = time.monotonic()
        self.requested.set()
        await self._idle.wait()

    @contextmanager
    def conversation(self) -> Iterator[None]:
        """A conversation with a client; `drain` waits until the client has received its last message."""
        self._conversations += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._conversations -= 1
            if not self._conversations:
                self._idle.set()

    async def before_deadline(self, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when most of the grace period is over.

        Raises:
            OverloadError: it was cancelled.
        """
        working, deadline = asyncio.ensure_future(work), asyncio.ensure_future(self._deadline())
        try:
            await asyncio.wait((working, deadline), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise OverloadError("the server is being stopped: send the file again", "stopping")
            return working.result()
        finally:
            working.cancel()
            deadline.cancel()

    async def _deadline(self) -> None:
        await self.requested.wait()
        await asyncio.sleep(self._requested_at + _WORK_SHARE * self._grace_seconds - time.monotonic())
