"""Uploads as hand-made multipart forms, which may be invalid."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

from tests.support.serving import Running

__all__ = ["BOUNDARY", "END", "FORM", "PATH", "form", "post", "refusal"]

BOUNDARY = "ThisIsTheBoundary"
END = f"\r\n--{BOUNDARY}--\r\n".encode()
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PATH = "/v1/audio/transcriptions"


def form(file: bytes, filename: str = "a.wav", **fields: str) -> bytes:
    """The body of a multipart request."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    texts = [(part % (name, "")).encode() + value.encode() + b"\r\n" for name, value in fields.items()]
    head = (part % ("file", f'; filename="{filename}"')).encode()
    return b"".join(texts) + head + file + END


def post(server: Running, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the response. An iterator is sent in pieces, without a Content-Length."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=600)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before the whole body was sent
            connection.request("POST", PATH, body, {"Content-Type": FORM, **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def refusal(server: Running, body: Any, status: int = 400, **headers: str) -> str:
    found, answer = post(server, body, **headers)
    assert (found, set(answer["error"])) == (status, {"message", "type", "param", "code"}), answer
    return str(answer["error"]["message"])
