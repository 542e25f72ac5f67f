"""Limits on request bodies, checked before anything is stored."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streaming.server.answers import overloaded, problem
from streaming.server.config import ServerLimits
from streaming.server.errors import OverloadError
from streaming.server.service import Service

__all__ = ["BodyLimit"]

_BODILESS = ("GET", "HEAD", "OPTIONS")


class BodyLimit:
    """ASGI middleware that limits the number, size and duration of requests with a body.

    Bytes are counted as they arrive, whatever the headers say. A server that is being stopped accepts no new requests,
    and the open ones must arrive within the grace period.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service, self._limits = app, service, service.limits
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            return await self._app(scope, receive, send)
        if refusal := self._refusal():
            self._service.metrics.refused.labels(refusal.reason).inc()
            return await overloaded(refusal)(scope, receive, send)
        if _declared_bytes(scope) > self._limits.max_upload_bytes:
            return await problem(413, _too_large(self._limits))(scope, receive, send)
        self._open += 1
        try:
            return await self._app(scope, _Body(receive, self._service), send)
        finally:
            self._open -= 1

    def _refusal(self) -> OverloadError | None:
        if self._open >= self._limits.max_uploads:
            return OverloadError(f"{self._open} uploads are open, which is the limit", "uploads")
        return self._service.admission.stopping()


class _Body:
    """A request's `receive` that raises when the body is too large or too slow."""

    def __init__(self, receive: Receive, service: Service) -> None:
        self._receive, self._service, self._limits = receive, service, service.limits
        self._deadline = time.monotonic() + self._limits.max_upload_seconds
        self._bytes = 0
        self._more = True

    async def __call__(self) -> Message:
        """The next message."""
        if not self._more:  # from here on the call waits for the client to disconnect, without a limit
            return await self._receive()
        message = await self._in_time()
        self._bytes += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._bytes > self._limits.max_upload_bytes:
            raise HTTPException(413, _too_large(self._limits))
        return message

    async def _in_time(self) -> Message:
        idle, left = self._limits.idle_seconds, self._deadline - time.monotonic()
        try:
            return await self._service.stop.before_deadline(asyncio.wait_for(self._receive(), min(idle, left)))
        except asyncio.TimeoutError:
            whole = f"the upload took longer than {self._limits.max_upload_seconds:g} s, which is the limit"
            raise HTTPException(408, f"nothing was received for {idle:g} s" if idle < left else whole) from None
        except OverloadError as error:  # FastAPI passes on no other exception from here
            headers = {"Retry-After": str(error.retry_after_seconds)}
            raise HTTPException(503, str(error), headers) from None


def _too_large(limits: ServerLimits) -> str:
    return f"the request is larger than {limits.max_upload_bytes} bytes, which is the limit"


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
