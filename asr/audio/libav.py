"""ffmpeg's libraries (PyAV) for files that nobody has checked: no other file is opened, nothing is printed or hangs."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.audio.chunk import cut_short
from asr.audio.kinds import FFMPEG_FORMATS
from asr.errors import AudioError

__all__ = ["Message", "WatchedFile", "captured_messages", "discard", "has_length", "open_container", "reason", "values"]

_STALL_SECONDS = 60.0  # longest time without decoded audio


class Message(NamedTuple):
    """A message of ffmpeg's libraries."""

    level: int
    part: str  # of the libraries, such as a demuxer's name
    text: str


class WatchedFile:
    """A file whose reads fail after a long time without decoded audio, since some files keep a demuxer busy forever."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._file = file
        self.note_progress()

    def note_progress(self) -> None:
        """Audio was decoded: the time starts again."""
        self._deadline = time.monotonic() + _STALL_SECONDS

    def read(self, count: int) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def open_container(file: WatchedFile, name: str, *, ignore_length: bool) -> tuple[Any, list[Message]]:
    """Open a container; also return the libraries' messages about it.

    Args:
        file: its content decides the format; only formats of `FFMPEG_FORMATS` are tried.
        name: for errors.
        ignore_length: read a WAV file to its end, whatever length its header declares.

    Raises:
        AudioError: the file cannot be read.
    """
    import av

    options = {"format_whitelist": FFMPEG_FORMATS, "protocol_whitelist": "file,pipe"}
    if ignore_length:
        options["ignore_length"] = "1"
    try:
        with captured_messages() as messages:
            container = av.open(file, options=options, metadata_errors="replace", io_open=_no_other_files)
    except av.error.EOFError:
        raise cut_short(name, 0.0, None) from None
    except (av.error.FFmpegError, TimeoutError) as error:
        raise AudioError(name, reason(error, messages)) from None
    return container, messages


@contextlib.contextmanager
def captured_messages() -> Iterator[list[Message]]:
    """Collect the messages of ffmpeg's libraries, and keep them off the terminal; the list is filled at the end."""
    import av

    _silence()
    messages: list[Message] = []
    with av.logging.Capture(local=True) as entries:
        try:
            yield messages
        finally:
            messages += [Message(*entry) for entry in entries]


@functools.cache
def _silence() -> None:
    """Deliver the libraries' messages to `captured_messages` alone: none is printed, even from decoder threads."""
    import av

    logging.getLogger("libav").addHandler(logging.NullHandler())
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # else "(repeated 3 more times)" appears when the next file is read


def _no_other_files(url: str, flags: int, options: dict[str, str]) -> Any:
    """A playlist in disguise must not lead to other files."""
    raise PermissionError(f"{url} is another file")


def reason(error: Exception, messages: Iterable[Message] = ()) -> str:
    """The reason why a file cannot be read, worded for users."""
    if isinstance(error, TimeoutError):
        return f"nothing could be decoded in {_STALL_SECONDS:g} s"
    if any("not on whitelist" in message.text for message in messages):
        return "is not audio: it looks like a playlist or an unsupported format"
    if type(error).__name__ == "InvalidDataError":  # ffmpeg's word for what no format recognises
        return "is not audio, or its beginning is damaged"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def has_length(stream: Any) -> bool:
    """Whether a stream has a length in time, unlike a cover picture or subtitles."""
    import av

    return stream.type in ("audio", "video") and not stream.disposition & av.stream.Disposition.attached_pic


def discard(streams: Iterable[Any]) -> None:
    """Skip these streams' packets, unread where the container allows it."""
    import av

    if levels := getattr(av.stream, "Discard", None):  # since PyAV 18
        for stream in streams:
            stream.discard = levels.all


def values(frame: Any) -> NDArray[Any]:
    """`(frames, channels)` of a decoded frame.

    PyAV counts planes up to the first null pointer. From 8 channels on that pointer lies beyond the real planes, so
    `frame.to_ndarray` would read arbitrary memory.
    """
    from av.audio.frame import format_dtypes

    planes = frame.planes[: frame.layout.nb_channels if frame.format.is_planar else 1]
    dtype = np.dtype(format_dtypes[frame.format.name])
    count = frame.samples if frame.format.is_planar else frame.samples * frame.layout.nb_channels
    samples = np.stack([np.frombuffer(plane, dtype, count) for plane in planes], axis=1)
    return samples.reshape(frame.samples, -1)
