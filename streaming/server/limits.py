"""Bounds on requests, kept before anything of them is stored."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streaming.server.answers import overloaded, problem
from streaming.server.config import Limits
from streaming.server.metrics import Metrics
from streaming.server.service import OverloadError

__all__ = ["BodyLimit"]

_BODILESS = ("GET", "HEAD", "OPTIONS")


class BodyLimit:
    """ASGI middleware that bounds how many requests with a body there are at a time, how large and how slow one may be.

    Bytes are counted as they come, whatever the headers say of them.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            return await self._app(scope, receive, send)
        if self._open >= self._limits.max_uploads:
            self._metrics.refused.labels("uploads").inc()
            busy = OverloadError(f"{self._open} requests are being worked on, and that is all there may be", "uploads")
            return await overloaded(busy)(scope, receive, send)
        if _declared_bytes(scope) > self._limits.max_upload_bytes:
            return await problem(413, self._too_large)(scope, receive, send)
        self._open += 1
        try:
            return await self._app(scope, _Body(receive, self._limits, self._too_large), send)
        finally:
            self._open -= 1

    @property
    def _too_large(self) -> str:
        return f"the request is larger than {self._limits.max_upload_bytes} bytes, which is all that it may be"


class _Body:
    """A request's `receive` that gives up on a body that is too large or too slow."""

    def __init__(self, receive: Receive, limits: Limits, too_large: str) -> None:
        self._receive, self._limits, self._too_large = receive, limits, too_large
        self._bytes = 0
        self._more = True

    async def __call__(self) -> Message:
        """The next message."""
        if not self._more:  # what follows is waiting for the client to go away, and that may take long
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.idle_seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"nothing came for {self._limits.idle_seconds:g} s") from None
        self._bytes += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._bytes > self._limits.max_upload_bytes:
            raise HTTPException(413, self._too_large)
        return message


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
