"""Download of LibriSpeech from a local server: cut connections, wrong checksums, full disks, hostile archives."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from recipes.librispeech import download

PART = "dev-clean"
WORDS = "1272-128104-0000 MISTER QUILTER IS THE APOSTLE\n"


class Server:
    """Serves one archive as /good/dev-clean.tar.gz, and records the first byte of each request."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.starts: list[int] = []
        self.cut_after: list[int] = []  # numbers of bytes after which the next responses break off
        self.knows_ranges = True
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *arguments: Any) -> None:
        self.our = server
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path != f"/good/{PART}.tar.gz":
            self.send_error(404)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if self.our.knows_ranges else 0
        self.our.starts.append(start)
        rest = self.our.archive[start:]
        if not rest:
            self.send_error(416)
            return
        self.send_response(206 if self.our.knows_ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.our.cut_after.pop(0)] if self.our.cut_after else rest)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        pass


def pack(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


ARCHIVE = pack(
    {
        f"LibriSpeech/{PART}/1272/128104/1272-128104.trans.txt": WORDS.encode(),
        f"LibriSpeech/{PART}/1272/128104/1272-128104-0000.flac": bytes(range(256)) * 40,
        "LibriSpeech/SPEAKERS.TXT": b"1272 | M\n",
    }
)


class Outcome(NamedTuple):
    status: int
    said: str


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.001)
    monkeypatch.setitem(download.CHECKSUMS, PART, hashlib.md5(ARCHIVE, usedforsecurity=False).hexdigest())
    made = Server(ARCHIVE)
    yield made
    made.close()


@pytest.fixture
def get(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def get(*more: str, mirror: str = "/good") -> Outcome:
        status = download.main([str(tmp_path), PART, "--mirror", server.url + mirror, *more])
        return Outcome(status, capsys.readouterr().err)

    return get


def words(folder: Path) -> str:
    return (folder / "LibriSpeech" / PART / "1272" / "128104" / "1272-128104.trans.txt").read_text()


def part(folder: Path) -> Path:
    return folder / f"{PART}.tar.gz.part"


def test_a_part_is_downloaded_checked_and_unpacked(server: Server, get: Any, tmp_path: Path) -> None:
    assert get() == (0, f"{PART}: done\n")
    assert words(tmp_path) == WORDS
    assert [path.name for path in tmp_path.iterdir()] == ["LibriSpeech"]
    assert (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").exists()
    assert get() == (0, f"{PART}: there\n")
    assert server.starts == [0]


def test_a_cut_connection_goes_on_where_it_was(server: Server, get: Any, tmp_path: Path) -> None:
    server.cut_after = [100, 0, 50]
    assert get().status == 0
    assert server.starts == [0, 100, 100, 150]
    assert words(tmp_path) == WORDS


def test_a_download_that_was_stopped_goes_on_in_the_next_run(server: Server, get: Any, tmp_path: Path) -> None:
    server.cut_after = [200] + [0] * download.TRIES
    status, said = get()
    assert status == 1
    assert said == f"download: {server.url}/good/{PART}.tar.gz: the connection was cut; 200 bytes are kept\n"
    server.starts.clear()
    assert get().status == 0
    assert server.starts == [200]
    assert words(tmp_path) == WORDS


def test_a_server_without_ranges_sends_it_all_again(server: Server, get: Any, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(b"the beginning of something else")
    server.knows_ranges = False
    assert get().status == 0
    assert words(tmp_path) == WORDS


def test_what_came_whole_but_was_not_checked_is_not_asked_for_again(server: Server, get: Any, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(ARCHIVE)
    assert get().status == 0
    assert server.starts == [len(ARCHIVE)]  # and the server says that no bytes are left


def test_a_wrong_checksum_is_named_and_the_file_goes(server: Server, get: Any, tmp_path: Path) -> None:
    server.archive = ARCHIVE[:-1] + b"?"
    status, said = get()
    assert status == 1
    assert "its MD5 checksum is" in said
    assert f"should be {download.CHECKSUMS[PART]}; it was deleted\n" in said
    assert list(tmp_path.iterdir()) == []
    server.archive = ARCHIVE
    assert get().status == 0


def test_an_archive_that_is_there_is_checked_and_left(server: Server, get: Any, tmp_path: Path) -> None:
    archive = tmp_path / f"{PART}.tar.gz"
    archive.write_bytes(b"not it")
    assert get().status == 1
    assert archive.read_bytes() == b"not it"
    archive.write_bytes(ARCHIVE)
    assert get("--keep-archives").status == 0
    assert archive.exists()
    assert words(tmp_path) == WORDS
    assert server.starts == []


def test_another_mirror_is_asked_where_one_has_nothing(server: Server, get: Any, tmp_path: Path) -> None:
    status, said = get("--mirror", f"{server.url}/good", mirror="/bad")
    assert status == 0
    assert "/bad/dev-clean.tar.gz: the server says 404 Not Found; trying the next mirror\n" in said
    assert words(tmp_path) == WORDS


def test_no_server_and_no_file_are_one_line(server: Server, get: Any) -> None:
    assert get(mirror="/bad") == (1, f"download: {server.url}/bad/{PART}.tar.gz: the server says 404 Not Found\n")
    server.close()
    status, said = get()
    assert status == 1
    assert "Connection refused; 0 bytes are kept" in said
    assert said.count("\n") == 1


def test_mirrors_come_from_the_environment_and_must_be_addresses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRISPEECH_MIRROR", f"{server.url}/bad {server.url}/good")
    assert download.main([str(tmp_path), PART]) == 0
    with pytest.raises(SystemExit, match="2"):
        download.main([str(tmp_path), PART, "--mirror", "/a/folder"])


class FullDisk(io.FileIO):
    """A file on a disk with room for a few bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 300:
            super().write(bytes(data)[: 300 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_keeps_what_came(server: Server, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *more: Any, **named: Any) -> IO[Any]:
        return FullDisk(path, mode) if path == part(tmp_path) and mode != "rb" else opened(path, mode, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        status, said = get()
    assert status == 1
    assert said == (
        f"download: {tmp_path}: the disk is full (No space left on device); make room, and the same command goes on\n"
    )
    assert part(tmp_path).read_bytes() == ARCHIVE[:300]
    assert get().status == 0
    assert server.starts == [0, 300]


def test_a_disk_that_is_too_small_is_seen_beforehand(get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10))
    status, said = get()
    assert status == 1
    assert f"needs {len(ARCHIVE):,} bytes more, but 10 are free" in said
    assert not part(tmp_path).exists()


@pytest.mark.parametrize(
    "members",
    [
        {"../outside": b"x"},
        {f"LibriSpeech/{PART}/a": b"x", "LibriSpeech/../../outside": b"x"},
        {"LibriSpeech/another/a": b"x"},
    ],
)
def test_an_archive_of_tricks_is_refused(
    server: Server, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]
) -> None:
    server.archive = pack(members)
    checksum = hashlib.md5(server.archive, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(download.CHECKSUMS, PART, checksum)
    status, said = get()
    assert status == 1
    assert f"not an archive of LibriSpeech/{PART}" in said
    assert said.count("\n") == 1
    assert not (tmp_path.parent / "outside").exists()
    assert not (tmp_path / "LibriSpeech" / PART).exists()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # the error of a Python with filters
def test_a_link_in_an_archive_is_refused_whatever_python_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Debian 12, whose Python 3.11.2 has no filters for archives, the download refused to unpack anything."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive, link = tmp_path / "a.tar.gz", tarfile.TarInfo(f"LibriSpeech/{PART}/out")
    link.type, link.linkname = tarfile.SYMTYPE, "/"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(link)
    with download._progress() as progress, pytest.raises(download.DownloadError, match="out is no plain file"):
        download.unpack(archive, tmp_path, PART, progress)
    assert not (tmp_path / "LibriSpeech" / PART).exists()


def test_an_interrupt_keeps_what_came(
    server: Server, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    server.cut_after = [120]
    with monkeypatch.context() as patch:
        patch.setattr(download.time, "sleep", interrupted)
        status, said = get()
    assert (status, "the same command resumes" in said) == (130, True)
    assert get().status == 0
    assert server.starts == [0, 120]
