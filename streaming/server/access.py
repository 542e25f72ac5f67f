"""Access control: the API key, the origins of web pages, and the host names that requests may use."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from streaming.server.answers import problem
from streaming.server.config import ServerConfig

__all__ = ["BEARER", "Access"]

BEARER = "bearer"  # browsers cannot set headers on a WebSocket: they send this subprotocol and the key as another
_READS = ("GET", "HEAD", "OPTIONS")
_PUBLIC = ("/", "/docs", "/health", "/ready")  # also the page at /ui, where the user enters the key


class Access:
    """ASGI middleware that checks the API key, the origin and the host name of each request.

    - Key: sent as `Authorization: Bearer KEY`; for a WebSocket also as `?key=KEY`, or as a subprotocol after "bearer".
    - Origin: browsers let any page open a WebSocket to any server, or post a form to it without reading the answer. So
      all requests but GET, HEAD and OPTIONS must come from this server's own page, from an origin in the CORS list, or
      from a client other than a browser.
    - Host name: a page may point its own name at 127.0.0.1 after it was loaded (DNS rebinding), and then has the same
      origin. A server whose only protection is its binding to localhost accepts only known names.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app, self._cors = app, config.cors
        self._key = None if config.api_key is None else config.api_key.encode()
        self._names = _names(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers, is_socket = Headers(scope=scope), scope["type"] == "websocket"
        if not _is_allowed_host(headers, self._names):
            refusal = problem(403, "this host name is not allowed: see --allow-host")
        elif (is_socket or scope["method"] not in _READS) and not self._from_here(headers):
            refusal = problem(403, "pages of this origin are not allowed: see --cors")
        elif self._key is None or _is_public(scope) or self._has_key(scope, headers):
            return await self._app(scope, receive, send)
        else:
            said = "the API key is wrong" if _given(scope, headers) else "an API key is needed"
            refusal = problem(401, f"{said}: send it as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        if is_socket and "websocket.http.response" not in scope.get("extensions", {}):
            return await send({"type": "websocket.close", "code": 1008})
        return await refusal(scope, receive, send)

    def _from_here(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        return origin is None or "*" in self._cors or origin in self._cors or _host(origin) == headers.get("host")

    def _has_key(self, scope: Scope, headers: Headers) -> bool:
        return any(hmac.compare_digest(given, self._key or b"") for given in _given(scope, headers))


def _names(config: ServerConfig) -> Collection[str]:
    """The host names that requests may use besides addresses and localhost; "*" for any."""
    if config.allow_hosts:
        return {name.lower() for name in config.allow_hosts}
    host = config.host.lower()
    return {host.rstrip(".")} if config.api_key is None and _is_bound_locally(host) else {"*"}


def _is_bound_locally(host: str) -> bool:
    """Whether a server bound to this address or name (such as `127.1`) is reachable only from this machine."""
    if not host or _is_local(host):
        return bool(host)
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False  # the server cannot be bound to it either
    return bool(found) and all(map(_is_local, found))


def _is_allowed_host(headers: Headers, names: Collection[str]) -> bool:
    """Whether a request's Host is allowed: one of the names or an address, which DNS rebinding cannot forge."""
    if "*" in names or "host" not in headers:
        return True
    try:
        name = (urlsplit(f"//{headers['host']}").hostname or "").rstrip(".")
    except ValueError:
        return False
    return name in names or _is_local(name) or _address(name) is not None


def _is_local(name: str) -> bool:
    """Whether a name is local, without a DNS query: the attacker's name server could answer 127.0.0.1."""
    address = _address(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_public(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    path, preflight = scope["path"], scope["method"] == "OPTIONS"
    return preflight or path in _PUBLIC or path == "/ui" or path.startswith("/ui/")


def _given(scope: Scope, headers: Headers) -> list[bytes]:
    """All keys in a request."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    given = [key.strip().encode("latin-1")] if kind.lower() == BEARER else []  # the bytes as they were sent
    if scope["type"] == "websocket":
        given += [key.encode() for key in parse_qs(scope["query_string"].decode("latin-1")).get("key", [])]
        protocols = scope.get("subprotocols", [])
        if len(protocols) == 2 and protocols[0] == BEARER:
            given.append(protocols[1].encode())
    return [key for key in given if key]


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
