"""The web application: one service behind all protocols."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware

import asr
from asr.errors import SpellstreamError
from streaming.engine import Engine
from streaming.server import openai, page, vosk, wyoming
from streaming.server.access import Access
from streaming.server.answers import add_handlers, problem
from streaming.server.config import ServerConfig
from streaming.server.limits import BodyLimit
from streaming.server.logs import AccessLog
from streaming.server.service import Service

__all__ = ["create_app"]

_LOG = logging.getLogger(__name__)


def create_app(config: ServerConfig, engine: Engine | None = None) -> FastAPI:
    """The application; its service is `app.state.service`.

    Args:
        config: settings.
        engine: recognises; made from the config's model if None.

    Raises:
        SpellstreamError: the model cannot be loaded.
    """
    service = Service(engine or Engine(asr.load(config.model, config.device), config.stream), config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running(), _wyoming(service):
            yield

    cors: dict[str, Any] = {"allow_origins": config.cors, "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    app = FastAPI(
        title="Spellstream",
        version=asr.__version__,
        summary="Speech recognition: OpenAI-compatible HTTP here, the vosk-server WebSocket protocol at /.",
        lifespan=lifespan,
        docs_url=None,  # it would load its scripts from somewhere else
        redoc_url=None,
        middleware=[
            Middleware(AccessLog, metrics=service.metrics),
            Middleware(CORSMiddleware, **cors),
            Middleware(Access, config=config),
            Middleware(BodyLimit, limits=config.limits, metrics=service.metrics),
        ],
    )
    app.state.service = service
    add_handlers(app)
    for routes in (_operations(service), vosk.router(service), openai.router(service), page.router()):
        app.include_router(routes)
    return app


def _operations(service: Service) -> APIRouter:
    """What whoever runs the server asks it."""
    routes = APIRouter(tags=["operations"])
    refusals: dict[int | str, dict[str, Any]] = {503: {"description": "It is not, and why"}}

    @routes.get("/health", responses=refusals)
    async def health() -> Response:
        """Whether the server works; otherwise it should be started anew."""
        return _state(None if service.healthy else "the engine has failed")

    @routes.get("/ready", responses=refusals)
    async def ready() -> Response:
        """Whether it takes another stream now."""
        refusal = service.refusal()
        return _state(str(refusal) if refusal else None if service.healthy else "the engine has failed")

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Counters and gauges for Prometheus."""
        service.update_metrics()
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _state(trouble: str | None) -> Response:
    if trouble:
        return problem(503, trouble, {"Retry-After": "3"})
    return Response('{"status":"ok"}', media_type="application/json")


@asynccontextmanager
async def _wyoming(service: Service) -> AsyncIterator[None]:
    """Serve the Wyoming protocol meanwhile, if there is a port for it."""
    port = service.config.wyoming_port
    if port is None:
        yield
        return
    serving = asyncio.create_task(wyoming.serve(service, service.config.host, port), name="spellstream-wyoming")
    serving.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError, OSError, SpellstreamError):
            await serving


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("the Wyoming server has ended: %s", error)
