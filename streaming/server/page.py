"""The browser page at `/ui`: a few small files, with a policy that restricts them to this server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

__all__ = ["router"]

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
OVERVIEW = "Spellstream: WebSocket at /, OpenAI-compatible HTTP at /v1, a page at /ui, its documentation at /docs.\n"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Scripts, styles, images and connections only from this origin ('self' includes its WebSocket); no inline scripts, and
# no strings as markup (trusted types), so file names and transcripts cannot inject any.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src blob:",  # the user's own recordings and files
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Cached, but revalidated each time (304 if unchanged), so that an old page is never used with a new server.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def router() -> APIRouter:
    """Routes `/`, `/ui/` and the page's files, which are read once, here.

    They need no API key: the page is where the user enters it.
    """
    files = _read(FOLDER)
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def root(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
        if "text/html" in request.headers.get("accept", ""):  # a browser; relative, as below
            return RedirectResponse("ui/", headers=headers)
        return PlainTextResponse(OVERVIEW, headers=headers)

    @routes.get("/ui")
    def to_folder() -> Response:
        # Relative, so that it works behind a proxy with a path prefix.
        return RedirectResponse("ui/", headers={"Cache-Control": "no-cache"})

    @routes.get("/ui/")
    def index(request: Request) -> Response:
        return _answer(files[INDEX], request)

    @routes.get("/ui/{name}")
    def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such file")
        return _answer(files[name], request)

    return routes


def _read(folder: Path) -> dict[str, PageFile]:
    return {
        path.name: PageFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        for path in sorted(folder.iterdir())
        if path.suffix in MEDIA_TYPES
        for content in [path.read_bytes()]
    }


def _answer(page_file: PageFile, request: Request) -> Response:
    headers = {**HEADERS, "ETag": page_file.etag}
    # A proxy that compresses weakens the tag: W/"…".
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if page_file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(page_file.content, media_type=page_file.media_type, headers=headers)
