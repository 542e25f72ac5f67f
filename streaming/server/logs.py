"""The server's log: one line for each event, as text or JSON; never audio, transcripts or keys."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streaming.server.connections import PROBES
from streaming.server.metrics import Metrics

__all__ = ["AccessLog", "configure", "formatter", "note"]

LogFormat = Literal["text", "json"]
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "WEBSOCKET")
_LOG = logging.getLogger(__name__)


def configure(log_format: LogFormat) -> None:
    """Write the server's log, and warnings of libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("streaming").setLevel(logging.INFO)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """The formatter of a log format."""
    return _Json() if log_format == "json" else _Text()


def note(logger: logging.Logger, message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with fields; floats are rounded to three decimals."""
    if not logger.isEnabledFor(level):
        return
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
    logger.log(level, message, extra={"fields": rounded})


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _quoted(value: object) -> str:
    """A value quoted on one line, so that a client cannot forge a line of the log."""
    text = str(value)
    return text if text.isprintable() and not {" ", '"', "="} & set(text) and text else json.dumps(text)


class AccessLog:
    """ASGI middleware that logs and counts requests; queries are left out, since they may hold keys."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        started, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000) if status else 403
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500  # an outer layer makes the response
            raise
        finally:
            method, client = scope.get("method", "WEBSOCKET"), scope.get("client")
            # Routes and known methods only, since clients could invent any number of label values.
            route = getattr(scope.get("route"), "path", "") or "unknown"
            self._metrics.requests.labels(method if method in _METHODS else "other", route, status).inc()
            level = logging.DEBUG if route in PROBES and status == 200 else logging.INFO
            facts = {"method": method, "path": scope["path"], "status": status}
            seconds = time.monotonic() - started
            note(_LOG, "request", level, **facts, client=client[0] if client else "-", seconds=seconds)
