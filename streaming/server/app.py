"""The web application: one service behind all protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware import Middleware

import asr
from streaming.engine import Engine
from streaming.server import docs, page
from streaming.server.access import Access
from streaming.server.answers import add_handlers, problem
from streaming.server.config import ServerConfig
from streaming.server.head import HeadRequests
from streaming.server.limits import BodyLimit
from streaming.server.logs import AccessLog
from streaming.server.protocols import openai, vosk, wyoming
from streaming.server.service import Service

__all__ = ["create_app"]


def create_app(config: ServerConfig, engine: Engine | None = None) -> FastAPI:
    """Create the application; its service is `app.state.service`.

    Args:
        config: settings.
        engine: the engine; loaded from the config's model if None.

    Raises:
        SpellstreamError: the model cannot be loaded.
    """
    service = Service(engine or Engine(asr.load(config.model, config.device), config.stream), config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(service.running())
            if config.wyoming_port is not None:
                await stack.enter_async_context(wyoming.serving(service, config.host, config.wyoming_port))
            yield

    cors: dict[str, Any] = {"allow_origins": config.cors, "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    app = FastAPI(
        title="Spellstream",
        version=asr.__version__,
        summary="Speech recognition: OpenAI-compatible HTTP here, the vosk-server WebSocket protocol at /.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads its scripts from another server; see streaming.server.docs
        redoc_url=None,
        middleware=[
            Middleware(AccessLog, metrics=service.metrics),
            Middleware(CORSMiddleware, **cors),
            Middleware(Access, config=config),
            Middleware(BodyLimit, service=service),
            Middleware(HeadRequests),
        ],
    )
    app.state.service = service
    add_handlers(app)
    for routes in (
        _operations(service),
        vosk.router(service),
        openai.router(service),
        page.router(),
        docs.router(app.openapi),
    ):
        app.include_router(routes)
    return app


def _operations(service: Service) -> APIRouter:
    """Routes for monitoring."""
    routes = APIRouter(tags=["operations"])
    refusals: dict[int | str, dict[str, Any]] = {503: {"description": "No, with the reason"}}

    @routes.get("/health", responses=refusals)
    async def health() -> Response:
        """Whether the engine works; if not, the server should be restarted. A full server is healthy."""
        return _state(None if service.healthy else "the engine has failed")

    @routes.get("/ready", responses=refusals)
    async def ready() -> Response:
        """Whether the server accepts another stream now."""
        if service.connections.full:
            return _state(f"{len(service.connections)} connections are open, which is the limit")
        refusal = service.admission.refusal()
        return _state(str(refusal) if refusal else None)

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
