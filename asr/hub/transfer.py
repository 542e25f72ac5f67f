"""One file over HTTP: a download that was cut goes on where it stopped, and only a verified file is kept.

huggingface_hub starts a file again from its first byte in every process (since its release 2), hence this module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from asr.errors import HubError
from asr.hub.listing import RemoteFile

__all__ = ["download"]

_ATTEMPTS = 5  # without a new byte
_TIMEOUT_SECONDS = 30.0
_PARTIAL_CONTENT = 206


def download(url: str, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Download a file to `target`, which appears when it is complete and verified.

    When the download is cut or interrupted, what came is kept beside it, with the ending `.incomplete`.

    Args:
        url: where the file is.
        file: what is expected.
        target: nothing is done if it is there.
        advance: is told of every block's bytes, negative where a part had to be dropped.

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
            raise KeyboardInterrupt("the same command goes on from here") from None
    if not file.matches(part):
        part.unlink()
        raise HubError(f"{file.path}: the downloaded file has another checksum than the hub gives; it was deleted")
    part.replace(target)


def _fill(url: str, file: RemoteFile, out: BinaryIO, advance: Callable[[int], None]) -> None:
    """Append the rest of the file to `out`, by as many requests as that takes while each brings something."""
    from httpx2 import TransportError

    failures = 0
    while out.tell() < file.size:
        before = out.tell()
        try:
            _request(url, file, out, advance)
            reason = "the server ends it early"
        except TransportError as error:
            reason = str(error) or type(error).__name__
        failures = 0 if out.tell() > before else failures + 1
        if failures == _ATTEMPTS:
            raise HubError(
                f"{file.path}: cut at {out.tell()} of {file.size} bytes ({reason}); the same command goes on from there"
            )


def _request(url: str, file: RemoteFile, out: BinaryIO, advance: Callable[[int], None]) -> None:
    """Append what one request brings."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    begun = out.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS) as response:
        hf_raise_for_status(response)
        if begun and response.status_code != _PARTIAL_CONTENT:  # the server sends all of it
            advance(-begun)
            out.seek(0)
            out.truncate()
        for block in response.iter_bytes():
            if out.tell() + len(block) > file.size:
                raise HubError(f"{file.path}: the server sends more than the {file.size} bytes that it announced")
            out.write(block)
            advance(len(block))
