"""Samples with a header (WAV, FLAC, AIFF, ...) through libsndfile, which is the fastest at these."""

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

# libsndfile reports this or more where the header leaves the length open, as a flac written to a pipe does.
_UNKNOWN_FRAMES = 1 << 60
_SLOPPY_SECONDS = 0.05  # some writers count their own header in: less than this missing is no cut
_DECLARED_BYTES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_TRUNCATED = "Seems to be a truncated file"
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # and its STREAMINFO block
_FLAC_BUFFER_BYTES = 1 << 17  # libFLAC may have read this much of what follows a stream


class _View:
    """A file from an offset on, without a name: soundfile takes one that ends in .raw for headerless samples."""

    def __init__(self, file: IO[bytes], offset: int = 0) -> None:
        self._file, self._offset = file, offset
        file.seek(offset)

    def read(self, count: int = -1) -> bytes:
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # An exception would be printed, not raised, by the C library's caller, which sees from `tell` what happened.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            self._file.seek(offset + (self._offset if whence == os.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell() - self._offset


def open_sound(file: IO[bytes], offset: int = 0) -> Any:
    """A `soundfile.SoundFile`, or None where libsndfile does not know the file."""
    import soundfile

    try:
        return soundfile.SoundFile(_View(file, offset))
    except soundfile.LibsndfileError:
        return None


def sound_seconds(sound: Any) -> float | None:
    """How long its header says that it is."""
    return float(sound.frames / sound.samplerate) if sound.frames < _UNKNOWN_FRAMES else None


def sound_chunks(
    file: IO[bytes], sound: Any, name: str, block_seconds: float, keep_damaged: bool, share: float = 1.0
) -> Generator[Chunk, None, None]:
    """Decode a file, further FLAC streams behind the first one included.

    Args:
        file: open in binary mode.
        sound: what `open_sound` made of it; it is closed.
        name: for errors.
        block_seconds: about how much to decode at a time.
        keep_damaged: also decode a file of which the header shows at once that it is cut short, before the error.
        share: how much of the file that its header declares is there.

    Raises:
        AudioError: it is damaged or cut short.
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

    # soundfile seeks after each read where it can, and that fails at the end of a flac of unknown length.
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
        except soundfile.LibsndfileError:
            if 0 < (good := sound.tell() - frames_read) <= frames:
                yield Chunk(rate, values[:good])
            frames_read = max(sound.tell(), frames_read)
            if frames_read == sound.frames:  # what cannot be read lies behind the samples that the header declares
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
    """The error that the file is shorter than its header says; libsndfile quietly trusts the file's length."""
    if declared := _DECLARED_BYTES.search(sound.extra_info):
        wanted, present = int(declared[1]), int(declared[2])
        if total and wanted < PLACEHOLDER_BYTES and total * (wanted / max(present, 1) - 1) > _SLOPPY_SECONDS:
            return cut_short(name, total, total * wanted / present)
    if share < 1:
        return cut_short(name, total, total / share)
    return cut_short(name, total, None) if _TRUNCATED in sound.extra_info else None


def _next_flac(file: IO[bytes], start: int) -> int | None:
    """Where another FLAC stream begins behind the one that began at `start` and was read to its end."""
    behind = max(start + 4, file.tell() - _FLAC_BUFFER_BYTES)
    file.seek(behind)
    found = _FLAC_START.search(file.read(2 * _FLAC_BUFFER_BYTES))
    return behind + found.start() if found else None
