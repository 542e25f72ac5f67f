"""LibriSpeech from its servers: resumable, checked, unpacked (https://www.openslr.org/12, CC BY 4.0).

    python -m recipes.librispeech.download FOLDER dev-clean train-clean-100

makes FOLDER/LibriSpeech/dev-clean and so on. An existing part is left unchanged, so FOLDER may be an existing copy.
After any interruption, the next run resumes at the same byte.

Environment: LIBRISPEECH_MIRROR, one or several addresses separated by spaces, in place of the usual servers.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

__all__ = ["CHECKSUMS", "DownloadError", "fetch", "main", "unpack"]

# https://www.openslr.org/resources/12/md5sum.txt
CHECKSUMS = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
MIRRORS = (
    "https://www.openslr.org/resources/12",
    "https://us.openslr.org/resources/12",
    "https://openslr.elda.org/resources/12",
)
CORPUS = "LibriSpeech"  # the folder in every archive
TRIES = 5  # in a row without any progress
BLOCK = 1 << 20
PATIENCE_SECONDS = 0.5  # before the first of them, doubling
TIMEOUT_SECONDS = 60.0  # without a byte
INTERRUPTED = 130


class DownloadError(Exception):
    """One line that names the file or address and the reason."""


def main(arguments: Sequence[str]) -> int:
    """Download the requested parts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.librispeech.download", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where LibriSpeech/ is, or will be")
    parser.add_argument("parts", nargs="+", choices=CHECKSUMS, metavar="PART", help=", ".join(CHECKSUMS))
    parser.add_argument(
        "--mirror", action="append", metavar="URL", help="address that holds PART.tar.gz; may be repeated"
    )
    parser.add_argument("--keep-archives", action="store_true", help="do not delete an archive once it is unpacked")
    options = parser.parse_args(arguments)
    mirrors = options.mirror or os.environ.get("LIBRISPEECH_MIRROR", "").split() or MIRRORS
    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://")):
            parser.error(f"{mirror}: the address of a mirror begins with https:// or http://")
    try:
        with _progress() as progress:
            for part in options.parts:
                _bring(part, options.folder, mirrors, progress, options.keep_archives)
    except (DownloadError, OSError) as error:
        print(f"download: {_reason(error, options.folder)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download: interrupted; downloaded data are kept, and the same command resumes", file=sys.stderr)
        return INTERRUPTED
    return 0


def _bring(part: str, folder: Path, mirrors: Sequence[str], progress: Progress, keep_archive: bool) -> None:
    """Download, check and unpack one part unless it exists."""
    if (folder / CORPUS / part).is_dir():
        progress.console.print(f"{part}: there", highlight=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{part}.tar.gz"
    if archive.exists():
        check(archive, CHECKSUMS[part], progress)
    else:
        fetch([f"{mirror.rstrip('/')}/{archive.name}" for mirror in mirrors], archive, CHECKSUMS[part], progress)
    unpack(archive, folder, part, progress)
    if not keep_archive:
        archive.unlink()
    progress.console.print(f"{part}: done", highlight=False)


def fetch(urls: Sequence[str], target: Path, checksum: str, progress: Progress) -> None:
    """Download a file from the first address that has it, resuming `target`.part.

    Raises:
        DownloadError: no address has it, the connection keeps breaking, the disk is full, or the MD5 checksum is not
            the given one; the message says what happens to the downloaded part.
    """
    part = target.with_name(target.name + ".part")
    task = progress.add_task(target.name, total=None)
    for url in urls:
        try:
            _persist(url, part, progress, task)
            break
        except DownloadError as error:
            if url == urls[-1]:
                raise
            progress.console.print(f"{error}; trying the next mirror", highlight=False, soft_wrap=True)
    progress.remove_task(task)
    try:
        check(part, checksum, progress)
    except DownloadError as error:
        part.unlink()
        raise DownloadError(f"{error}; it was deleted") from None
    part.replace(target)


def check(path: Path, checksum: str, progress: Progress) -> None:
    """Raise a DownloadError unless a file has this MD5 checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    with _bar(progress, path, "checksum") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != checksum:
        raise DownloadError(f"{path}: its MD5 checksum is {digest.hexdigest()}, but should be {checksum}")


def _persist(url: str, part: Path, progress: Progress, task: int) -> None:
    """Request the rest of a file until it is complete or no more data comes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            if _continue(url, part, progress, task):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from None
            reason = f"the server says {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        if failures == TRIES:
            raise DownloadError(f"{url}: {reason}; {_size(part):,} bytes are kept")
        time.sleep(PATIENCE_SECONDS * 2**failures)


def _continue(url: str, part: Path, progress: Progress, task: int) -> bool:
    """Request the missing part once; returns whether the file is complete."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "User-Agent": "spellstream-recipe"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # "Range not satisfiable": the server has no more bytes. The checksum decides whether the file is complete.
        if error.code == 416 and have:
            error.close()
            return True
        raise
    with response:
        if response.status != 206:  # a server without support for ranges sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None:
            _require_space(part.parent, total - have, url)
        progress.update(task, total=total, completed=have)
        with part.open("ab" if have else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                progress.advance(task, len(block))
    return total is None or _size(part) >= total


def _require_space(folder: Path, needed: int, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{url} needs {needed:,} bytes more, but {free:,} are free")


def unpack(archive: Path, folder: Path, part: str, progress: Progress) -> None:
    """Unpack an archive's LibriSpeech/`part` into `folder`, atomically.

    Only plain files and folders inside the archive's own folder are accepted.

    Raises:
        DownloadError: the archive is broken, holds something else, or would write elsewhere.
    """
    scratch = folder / f".{part}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _bar(progress, archive, "unpacking") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python has none
            tar.extractall(scratch, members=_plain(tar))
        (folder / CORPUS).mkdir(exist_ok=True)
        (scratch / CORPUS / part).rename(folder / CORPUS / part)
        for other in (scratch / CORPUS).iterdir():  # README.TXT, SPEAKERS.TXT and so on, the same in every archive
            other.replace(folder / CORPUS / other.name)
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise DownloadError(f"{archive}: not an archive of {CORPUS}/{part}: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plain(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members of an archive; an error unless all are files and folders below the target."""
    for member in tar:
        path = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise tarfile.ExtractError(f"{member.name} is no plain file or folder inside it")
        member.mode = 0o755 if member.isdir() else 0o644
        yield member


@contextlib.contextmanager
def _bar(progress: Progress, path: Path, doing: str) -> Iterator[IO[bytes]]:
    """Open a file for reading with a progress bar."""
    task = progress.add_task(f"{path.name}: {doing}", total=path.stat().st_size)
    try:
        with progress.open(path, "rb", task_id=task) as file:
            yield file
    finally:
        progress.remove_task(task)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{folder}: the disk is full ({error.strerror}); make room, and the same command goes on"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).splitlines())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
