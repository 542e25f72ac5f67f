"""A server with the part of the hub's API that huggingface_hub calls, and with failures on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

__all__ = ["LARGE", "HubServer", "serving_hub"]

LARGE = 2_000  # bytes; files of at least this size are in LFS


@dataclass
class HubServer:
    """Repositories by name, recorded requests, and simulated failures."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "GET path", with the range if requested
    cut_after: dict[str, int] = field(default_factory=dict)  # path: bytes of a response before it is cut off
    wrong: set[str] = field(default_factory=set)  # paths whose content differs from the listing
    ranges: bool = True
    pause_seconds: float = 0.0  # between blocks of 64 KiB

    def commit(self, name: str) -> str:
        """The commit, which changes with the content."""
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repositories[name].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def add(self, name: str, folder: Path) -> None:
        """Add a repository with the files of a folder."""
        self.repositories[name] = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def downloads(self) -> list[str]:
        """The files whose content was requested."""
        return [each.split("/", 5)[5] for each in self.asked if each.startswith("GET") and "/resolve/" in each]


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file's entry in the hub's listing."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    listed: dict[str, Any] = {"type": "file", "oid": blob, "size": len(data), "path": path}
    if len(data) >= LARGE:
        listed["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return listed


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        wanted = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {path}" + (f" {wanted}" if wanted else ""))
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.hub.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[0] == "api":
            self._list(name, parts[4], parts[5])
        else:
            self._file(name, parts[3], "/".join(parts[4:]), wanted)

    def _list(self, name: str, what: str, revision: str) -> None:
        commit, files = self.hub.commit(name), self.hub.repositories[name]
        if revision not in ("main", "v1", commit):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            self._send(200, json.dumps({"id": name, "sha": commit, "siblings": []}).encode(), {})
        else:
            folder = {"type": "directory", "oid": "0" * 40, "size": 0, "path": "pictures"}
            self._send(200, json.dumps([folder, *(entry(*file) for file in files.items())]).encode(), {})

    def _file(self, name: str, revision: str, path: str, wanted: str | None) -> None:
        data = self.hub.repositories[name][path]
        listed = entry(path, data)
        etag = listed.get("lfs", listed)["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit(name)}
        if path in self.hub.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if wanted and self.hub.ranges:
            begun = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {begun}-{len(data) - 1}/{len(data)}"
            self._send(206, data[begun:], headers, self.hub.cut_after.get(path))
        else:
            self._send(200, data, headers, self.hub.cut_after.get(path))

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            body = body[:cut_after]
            with contextlib.suppress(ConnectionError):  # the client may have disconnected
                for begun in range(0, len(body), 1 << 16):
                    self.wfile.write(body[begun : begun + (1 << 16)])
                    time.sleep(self.hub.pause_seconds)
        self.close_connection = True


@contextlib.contextmanager
def serving_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """Within the context, this server is the hub, and the cache starts empty."""
    from huggingface_hub import constants

    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
