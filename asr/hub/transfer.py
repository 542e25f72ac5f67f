"""Download of a file over HTTP: an interrupted download resumes where it stopped, and only a verified file is kept.

This module exists because huggingface_hub, since its release 2, restarts a file from the first byte in each process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from asr.errors import HubError
from asr.hub.listing import RemoteFile

__all__ = ["download"]

_ATTEMPTS = 5  # in a row without progress
_TIMEOUT_SECONDS = 30.0
_PARTIAL_CONTENT = 206


def download(url: str, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Download a file to `target`, which appears once it is complete and verified.

    If the download is interrupted, the received part is kept beside it, with the suffix `.incomplete`.

    Args:
        url: address of the file.
        file: expected size and checksum.
        target: if it exists already, nothing is done.
        advance: called with the bytes of each block; negative if a part had to be dropped.

    Raises:
        HubError: the connection was cut repeatedly, or the content has another size or checksum.
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".incomplete")
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as out:
        advance(out.tell())
        try:
            _fill(url, file, out, advance)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command resumes from here") from None
    if not file.matches(part):
        part.unlink()
        raise HubError(f"{file.path}: the downloaded file does not match the hub's checksum; it was deleted")
    part.replace(target)


def _fill(url: str, file: RemoteFile, out: BinaryIO, advance: Callable[[int], None]) -> None:
    """Append the rest of the file to `out`, with repeated requests as long as they make progress."""
    from httpx2 import TransportError

    failures = 0
    while out.tell() < file.size:
        before = out.tell()
        try:
            _request(url, file, out, advance)
            reason = "the server ended it early"
        except TransportError as error:
            reason = str(error) or type(error).__name__
        failures = 0 if out.tell() > before else failures + 1
        if failures == _ATTEMPTS:
            raise HubError(
                f"{file.path}: cut at {out.tell()} of {file.size} bytes ({reason}); the same command resumes from there"
            )


def _request(url: str, file: RemoteFile, out: BinaryIO, advance: Callable[[int], None]) -> None:
    """Append the content of one response."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    begun = out.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS) as response:
        hf_raise_for_status(response)
        if begun and response.status_code != _PARTIAL_CONTENT:  # the server sends the whole file again
            advance(-begun)
            out.seek(0)
            out.truncate()
        for block in response.iter_bytes():
            if out.tell() + len(block) > file.size:
                raise HubError(f"{file.path}: the server sends more than the announced {file.size} bytes")
            out.write(block)
            advance(len(block))
