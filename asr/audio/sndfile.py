"""Samples with a header (WAV, FLAC, AIFF, ...) through libsndfile, the fastest library for them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator
from typing import IO, Any

import numpy as np

from asr.audio.chunk import Chunk, chunk_frames, cut_short
from asr.audio.headers import PLACEHOLDER_BYTES
from asr.errors import AudioError

__all__ = ["open_sound", "sound_chunks", "sound_seconds"]

# libsndfile reports at least this many if the header leaves the length open, as in a FLAC file written to a pipe.
_UNKNOWN_FRAMES = 1 << 60
_SLOPPY_SECONDS = 0.05  # some writers include their header in the length: a smaller deficit is not damage
_DECLARED_BYTES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_TRUNCATED = "Seems to be a truncated file"
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # and its STREAMINFO block
_FLAC_BUFFER_BYTES = 1 << 17  # libFLAC may have read this far past the end of a stream


class _View:
    """A file from an offset on, without its name, since soundfile treats a file named .raw as headerless samples.

    libsndfile reads through C callbacks, which print an exception instead of raising it. The view keeps the
    exception of a failed read, and the file appears to end there until `raise_failure`.
    """

    def __init__(self, file: IO[bytes], offset: int = 0) -> None:
        self._file, self._offset = file, offset
        self._failure: BaseException | None = None
        file.seek(offset)

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except BaseException as failure:  # also Ctrl-C
            self._failure = failure
            return b""

    def raise_failure(self) -> None:
        """Raise the exception of an earlier read, if any."""
        if self._failure is not None:
            raise self._failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # A failed seek leaves the position unchanged, which libsndfile learns from `tell`.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            self._file.seek(offset + (self._offset if whence == os.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell() - self._offset


def open_sound(file: IO[bytes], offset: int = 0) -> Any:
    """A `soundfile.SoundFile`, or None where libsndfile does not know the file.

    Raises:
        OSError: the file cannot be read.
    """
    import soundfile

    view = _View(file, offset)
    try:
        return soundfile.SoundFile(view)
    except soundfile.LibsndfileError:
        view.raise_failure()
        return None


def sound_seconds(sound: Any) -> float | None:
    """Length that the header declares."""
    return float(sound.frames / sound.samplerate) if sound.frames < _UNKNOWN_FRAMES else None


def sound_chunks(
    file: IO[bytes], sound: Any, name: str, block_seconds: float, keep_damaged: bool, share: float = 1.0
) -> Generator[Chunk, None, None]:
    """Decode a file, including any FLAC streams after the first one.

    Args:
        file: open in binary mode.
        sound: the result of `open_sound`; closed at the end.
        name: for errors.
        block_seconds: approximate length of a decoded block.
        keep_damaged: decode even a file whose header already shows that it is cut short, before raising the error.
        share: fraction of the declared file size that is present.

    Raises:
        AudioError: it is damaged or cut short.
        OSError: it cannot be read.
    """
    offset: int | None = 0
    while offset is not None:
        with sound:
            yield from _stream_chunks(sound, name, block_seconds, keep_damaged, share)
            offset = _next_flac(file, offset) if sound.format == "FLAC" else None
        if offset is not None:
            sound = open_sound(file, offset)
            if sound is None:
                raise AudioError(name, "is damaged: a second FLAC stream in it cannot be read")


def _stream_chunks(
    sound: Any, name: str, block_seconds: float, keep_damaged: bool, share: float
) -> Generator[Chunk, None, None]:
    import soundfile

    # soundfile seeks after each read if it can, which fails at the end of a FLAC file of unknown length.
    sound.seekable = lambda: False
    rate, total = sound.samplerate, sound_seconds(sound)
    shorter = None if total is None else _shorter_than_declared(sound, name, total, share)
    if shorter and not keep_damaged:
        raise shorter

    frames, frames_read = chunk_frames(rate, sound.channels, block_seconds), 0
    while True:
        values = np.empty((frames, sound.channels), np.float32)
        try:
            values = sound.read(out=values)
            sound.name.raise_failure()  # soundfile calls its file, a `_View`, its name
        except soundfile.LibsndfileError:
            sound.name.raise_failure()
            if 0 < (good := sound.tell() - frames_read) <= frames:
                yield Chunk(rate, values[:good])
            frames_read = max(sound.tell(), frames_read)
            if frames_read == sound.frames:  # the unreadable part follows the declared samples
                break
            raise cut_short(name, frames_read / rate, total) from None
        if len(values) == 0:
            break
        frames_read += len(values)
        yield Chunk(rate, values)

    if total is not None and frames_read < sound.frames:
        raise cut_short(name, frames_read / rate, total)
    if shorter:
        raise shorter


def _shorter_than_declared(sound: Any, name: str, total: float, share: float) -> AudioError | None:
    """The error for a file shorter than its header says, since libsndfile silently trusts the file's length."""
    if declared := _DECLARED_BYTES.search(sound.extra_info):
        wanted, present = int(declared[1]), int(declared[2])
        if total and wanted < PLACEHOLDER_BYTES and total * (wanted / max(present, 1) - 1) > _SLOPPY_SECONDS:
            return cut_short(name, total, total * wanted / present)
    if share < 1:
        return cut_short(name, total, total / share)
    return cut_short(name, total, None) if _TRUNCATED in sound.extra_info else None


def _next_flac(file: IO[bytes], start: int) -> int | None:
    """Start of the next FLAC stream after the one that began at `start` and was read to its end, if any."""
    behind = max(start + 4, file.tell() - _FLAC_BUFFER_BYTES)
    file.seek(behind)
    found = _FLAC_START.search(file.read(2 * _FLAC_BUFFER_BYTES))
    return behind + found.start() if found else None
