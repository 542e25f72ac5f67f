"""A file of any kind → its samples at the file's own rate, block by block, in constant memory.

Samples with a header go through libsndfile, all else through ffmpeg's libraries (PyAV). Missing audio, at the end of a
file or within it, raises an `AudioError`; it never gives a silently shorter result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from asr.audio.chunk import Chunk
from asr.audio.container import container_chunks, container_seconds
from asr.audio.headers import declared_bytes, ogg_is_damaged, wav_data
from asr.audio.kinds import headerless_hint, not_audio, reads_as_container
from asr.audio.sndfile import open_sound, sound_chunks, sound_seconds
from asr.audio.tracks import Track, check_single_track
from asr.errors import AudioError

__all__ = ["duration_seconds", "file_chunks"]

_HEAD_BYTES = 4096
_SLACK_BYTES = 16  # padding that some writers declare but do not write
_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "is a directory, not an audio file",
    PermissionError: "permission denied",
}


def file_chunks(
    source: str | os.PathLike[str] | BinaryIO,
    name: str,
    block_seconds: float,
    keep_damaged: bool = False,
    track: Track = None,
) -> Generator[Chunk, None, None]:
    """Decode a file.

    Args:
        source: a path, "-" for standard input, or a binary file object.
        name: source name for errors.
        block_seconds: approximate length of a decoded block; less if there are many channels.
        keep_damaged: decode even a file whose header already shows that it is cut short, before raising the error.
        track: audio track: its number from 1 on, or its language; None: see `container_chunks`.

    Raises:
        AudioError: the file is missing, not readable, not audio, empty, damaged or cut short, or has no such track.
    """
    with _opened(source, name) as file:
        try:
            yield from _chunks(file, name, block_seconds, keep_damaged, track)
        except AudioError:
            raise
        except OSError as error:  # a failing disk or network
            raise AudioError(name, f"cannot be read: {error.strerror or error}") from error
        except Exception as error:  # from any library: one bad file must not stop the others
            reason = " ".join(str(error).split()) or type(error).__name__
            raise AudioError(name, f"cannot be decoded: {reason}") from error


def duration_seconds(source: str | os.PathLike[str] | BinaryIO) -> float | None:
    """Length of a file from its header alone; None if the header does not give it."""
    try:
        if isinstance(source, (str, os.PathLike)) and not Path(source).is_file():
            return None  # opening a named pipe would consume its content
        with _opened(source, "") as file:
            if reads_as_container(file.read(_HEAD_BYTES)) or (sound := open_sound(file)) is None:
                return container_seconds(file)
            with sound:
                return sound_seconds(sound)
    except Exception:  # from any library
        return None


def _chunks(
    file: IO[bytes], name: str, block_seconds: float, keep_damaged: bool, track: Track
) -> Generator[Chunk, None, None]:
    """Choose the decoder by the file's content, never by its name."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    wav = wav_data(file, size)
    declared = declared_bytes(file, size)
    share = size / declared if declared and declared > size + _SLACK_BYTES else 1.0

    container = reads_as_container(head) or (wav is not None and (wav.is_mpeg or wav.reads_on))
    if not container and (sound := open_sound(file)) is not None:
        try:
            check_single_track(track, name)
        except AudioError:
            sound.close()
            raise
        yield from sound_chunks(file, sound, name, block_seconds, keep_damaged, share)
        return

    if not container:
        if kind := not_audio(head):
            raise AudioError(name, f"is not audio: it looks like {kind}")
        if hint := headerless_hint(name):
            raise AudioError(name, hint)
    ignore_length = wav is not None and wav.reads_on
    is_damaged = share < 1 or ogg_is_damaged(file, size)
    yield from container_chunks(file, name, block_seconds, track, is_damaged=is_damaged, ignore_length=ignore_length)


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO, name: str) -> Iterator[IO[bytes]]:
    """Open a source as a non-empty, seekable file; pipes, which cannot seek, are spooled to a temporary file."""
    with contextlib.ExitStack() as stack:
        try:
            file: IO[bytes]
            if not isinstance(source, (str, os.PathLike)):
                file = source
            elif source != "-":
                file = stack.enter_context(Path(source).open("rb"))
            elif sys.stdin is None:
                raise AudioError(name, "is closed")
            elif sys.stdin.buffer.isatty():  # reading would wait for input that nobody types
                raise AudioError(name, "is a terminal: pipe audio to it")
            else:
                file = sys.stdin.buffer
            if not file.seekable():
                file = stack.enter_context(_spooled(file, name))
            empty = file.seek(0, os.SEEK_END) == 0
            file.seek(0)
        except OSError as error:
            raise AudioError(name, _REASONS.get(type(error)) or error.strerror or str(error)) from error
        except ValueError as error:  # a NUL in the path, a closed file
            raise AudioError(name, str(error)) from error
        if empty:
            raise AudioError(name, "is empty (0 bytes)")
        yield file


@contextlib.contextmanager
def _spooled(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """A temporary copy; its folder may be full, which is no fault of the source."""
    with contextlib.ExitStack() as stack:
        try:
            spool = stack.enter_context(tempfile.NamedTemporaryFile())
            shutil.copyfileobj(file, spool, 1 << 20)
            spool.flush()
        except OSError as error:
            raise AudioError(name, f"cannot be copied to a temporary file: {error.strerror or error}") from error
        yield spool
