"""A file of any kind → its samples as they are, block by block, in flat memory.

libsndfile reads what it can; anything else goes through an `ffmpeg` child process where that is installed. A file that
cannot be read whole is an `AudioError`, never a shorter one.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from asr.errors import AudioError

__all__ = ["Chunk", "chunk_frames", "duration_seconds", "file_chunks"]

# However many channels there are, no more than this is decoded at a time: 16 MiB of float32.
_MAX_CHUNK_VALUES = 1 << 22
_PROBE_BYTES = 4096
_STALL_SECONDS = 60.0  # in which ffmpeg has to come up with a chunk
# libsndfile reports this or more where the header leaves the length open, as a flac written to a pipe does.
_UNKNOWN_FRAMES = 1 << 60
# Headers written before the length was known hold a placeholder near 2 or 4 GiB.
_PLACEHOLDER_BYTES = 0x7FFF_0000
# Some writers count their own header in; less than this missing is no cut.
_SLOPPY_SECONDS = 0.05
# Lengths that libsndfile estimates, or takes from what is there.
_ESTIMATED_FORMATS = ("MP3", "OGG")
_DECLARED_BYTES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_NOT_AUDIO = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
}
_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "is a directory, not an audio file",
    PermissionError: "permission denied",
}
# What ffmpeg may read: containers that hold their audio, none that names other files (hls, dash, concat, ...).
_FFMPEG_FORMATS = "3gp,aa,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,ivf,loas,matroska,mov"
_FFMPEG_FORMATS += ",mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,rm,shn,sox,swf,tak,truehd,tta,voc,w64,wav,webm,wtv,wv"
_AU_HEADER = struct.Struct(">4s5I")  # magic, header bytes, data bytes, encoding, sample rate, channels


class Chunk(NamedTuple):
    """Decoded audio at its own rate: `values` is `(frames, channels)`."""

    sample_rate: int
    values: NDArray[Any]


def file_chunks(
    source: str | os.PathLike[str] | BinaryIO, name: str, block_seconds: float, keep_damaged: bool = False
) -> Generator[Chunk, None, None]:
    """Decode a file with libsndfile, or else with ffmpeg.

    Args:
        source: a path, "-" for standard input, or a binary file object.
        name: what an error should name.
        block_seconds: about how much to decode at a time; less where there are many channels.
        keep_damaged: also decode a file of which the header shows at once that it is cut short, before the error.

    Raises:
        AudioError: missing, not readable, not audio, empty or cut short.
    """
    import soundfile

    with _opened(source, name) as file:
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError:
            file.seek(0)
            if kind := _not_audio(file.read(_PROBE_BYTES)):
                raise AudioError(name, f"is not audio: it looks like {kind}") from None
            with _named(file) as path:
                yield from _ffmpeg_chunks(path, name, block_seconds)
        else:
            with sound:
                yield from _sndfile_chunks(sound, name, block_seconds, keep_damaged)


def duration_seconds(source: str | os.PathLike[str] | BinaryIO) -> float | None:
    """How long a file says it is, from its header alone; None where that cannot be told."""
    import soundfile

    try:
        if isinstance(source, (str, os.PathLike)) and not Path(source).is_file():
            return None  # opening a named pipe would eat what is in it
        with _opened(source, "") as file, soundfile.SoundFile(file) as sound:
            return float(sound.frames / sound.samplerate) if sound.frames < _UNKNOWN_FRAMES else None
    except (OSError, ValueError, AudioError, soundfile.LibsndfileError):
        return None


def chunk_frames(rate: int, channels: int, block_seconds: float) -> int:
    """How many frames to decode at a time."""
    return max(1, int(min(rate * block_seconds, _MAX_CHUNK_VALUES / channels)))


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO, name: str) -> Iterator[IO[bytes]]:
    """A source as a file that is not empty and can seek; pipes, which cannot, are spooled to a temporary file."""
    with contextlib.ExitStack() as stack:
        try:
            file: IO[bytes]
            if not isinstance(source, (str, os.PathLike)):
                file = source
            elif source != "-":
                file = stack.enter_context(Path(source).open("rb"))
            elif sys.stdin is None:
                raise AudioError(name, "is closed")
            else:
                file = sys.stdin.buffer
            if not file.seekable():
                file = stack.enter_context(_spooled(file))
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
def _spooled(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile() as spool:
        shutil.copyfileobj(file, spool, 1 << 20)
        spool.flush()
        yield spool


@contextlib.contextmanager
def _named(file: IO[bytes]) -> Iterator[str]:
    """A path under which another process can read the file: its own, or that of a temporary copy."""
    own = None
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):
        if os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
            own = file.name
    if own is not None:
        yield own
        return
    file.seek(0)
    with _spooled(file) as copy:
        yield copy.name


def _not_audio(head: bytes) -> str | None:
    """What a file that starts with `head` plainly is, if that is nothing that could hold audio."""
    for magic, kind in _NOT_AUDIO.items():
        if head.startswith(magic):
            return kind
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: `head` may end within a character
    except UnicodeDecodeError:
        return None
    return "text" if all(character.isprintable() or character.isspace() for character in text) else None


def _cut_short(name: str, read_seconds: float, total_seconds: float | None) -> AudioError:
    total = "" if total_seconds is None else f" of {total_seconds:.2f} s"
    return AudioError(name, f"is damaged or cut short: {read_seconds:.2f} s{total} could be read")


def _sndfile_chunks(sound: Any, name: str, block_seconds: float, keep_damaged: bool) -> Generator[Chunk, None, None]:
    import soundfile

    # soundfile seeks after each read where it can, and that fails at the end of a flac of unknown length.
    sound.seekable = lambda: False
    rate = sound.samplerate
    total = sound.frames / rate if sound.frames < _UNKNOWN_FRAMES else None
    shorter = None if total is None else _shorter_than_declared(sound, name, total)
    if shorter and not keep_damaged:
        raise shorter
    frames, frames_read = chunk_frames(rate, sound.channels, block_seconds), 0
    while True:
        values = np.empty((frames, sound.channels), np.float32)
        try:
            values = sound.read(out=values)
        except soundfile.LibsndfileError:
            if 0 < (good := sound.tell() - frames_read) <= frames:
                yield Chunk(rate, values[:good])
            raise _cut_short(name, max(sound.tell(), frames_read) / rate, total) from None
        if len(values) == 0:
            break
        frames_read += len(values)
        yield Chunk(rate, values)
    if total is not None and frames_read < sound.frames and sound.format not in _ESTIMATED_FORMATS:
        raise _cut_short(name, frames_read / rate, total)
    if shorter:
        raise shorter


def _shorter_than_declared(sound: Any, name: str, total: float) -> AudioError | None:
    """The error that the file is shorter than its header says; libsndfile quietly trusts the file's length."""
    if declared := _DECLARED_BYTES.search(sound.extra_info):
        wanted, present = int(declared[1]), int(declared[2])
        if total and wanted < _PLACEHOLDER_BYTES and total * (wanted / max(present, 1) - 1) > _SLOPPY_SECONDS:
            return _cut_short(name, total, total * wanted / present)
    return None


def _ffmpeg_chunks(path: str, name: str, block_seconds: float) -> Generator[Chunk, None, None]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(name, "libsndfile cannot read it, so it needs ffmpeg, which is not installed")
    # The AU container is raw samples behind their rate and channels, so neither is ffmpeg's to convert. The whitelists
    # keep playlists from reaching for the network and for other files of this machine.
    command = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe"]
    command += ["-format_whitelist", _FFMPEG_FORMATS, "-i", f"file:{path}"]
    command += ["-vn", "-sn", "-dn", "-f", "au", "-c:a", "pcm_f32be", "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,  # a pipe nobody reads would fill up and block ffmpeg
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as child,
    ):
        try:
            rate, frames_read = 1, 0
            if len(header := _read(child, _AU_HEADER.size, name)) == _AU_HEADER.size:
                _, header_bytes, _, _, rate, channels = _AU_HEADER.unpack(header)
                _read(child, header_bytes - _AU_HEADER.size, name)
                frame_bytes = 4 * channels
                chunk_bytes = frame_bytes * chunk_frames(rate, channels, block_seconds)
                while data := _read(child, chunk_bytes, name):
                    values = np.frombuffer(data[: len(data) // frame_bytes * frame_bytes], dtype=">f4")
                    frames_read += len(values) // channels
                    yield Chunk(rate, values.reshape(-1, channels))
            failed = child.wait() != 0
            reason = _last_message(messages, path)
            if "partial file" in reason:  # said, but not counted as a failure
                raise _cut_short(name, frames_read / rate, None)
            if failed:
                raise AudioError(name, reason)
        finally:
            child.kill()  # nothing, if it has ended


def _read(child: subprocess.Popen[bytes], count: int, name: str) -> bytes:
    """The next bytes that ffmpeg writes, fewer at the end. One that hangs is not waited for: there are such files."""
    hung = threading.Event()

    def give_up() -> None:
        hung.set()
        child.kill()

    watchdog = threading.Timer(_STALL_SECONDS, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        data = cast(IO[bytes], child.stdout).read(count)
    finally:
        watchdog.cancel()
    if hung.is_set():
        raise AudioError(name, f"ffmpeg came to nothing in {_STALL_SECONDS:g} s of reading it")
    return data


def _last_message(messages: IO[bytes], path: str) -> str:
    """The last line that ffmpeg wrote, in words that mean something to someone who never started it."""
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - _PROBE_BYTES))
    text = messages.read().decode(errors="replace").strip()
    if "does not contain any stream" in text:
        return "has no audio track"
    if "not on whitelist" in text:
        return "is not audio: it looks like a playlist, or a format that is not read"
    lines = text.splitlines() or ["failed without a message"]
    return "ffmpeg cannot read it: " + lines[-1].removeprefix(f"file:{path}: ")
