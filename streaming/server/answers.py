"""Errors as HTTP responses in OpenAI's format."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from asr.errors import SpellstreamError
from streaming.server.errors import OverloadError

__all__ = ["add_handlers", "error_body", "problem"]


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error response: status 4xx for a client error, 5xx for a server error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error response."""
    return JSONResponse(error_body(status, message), status, headers)


def overloaded(error: OverloadError) -> JSONResponse:
    """Status 503, with a time to retry."""
    return problem(503, str(error), {"Retry-After": str(error.retry_after_seconds)})


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the application in this format."""

    @app.exception_handler(OverloadError)
    async def busy(request: Request, error: OverloadError) -> Response:
        return overloaded(error)

    @app.exception_handler(SpellstreamError)
    async def refused(request: Request, error: SpellstreamError) -> Response:
        return problem(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return problem(500, "the server failed to answer this request")
