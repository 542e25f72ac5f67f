"""Compressed files and containers through ffmpeg's libraries (PyAV), on the container's own clock."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.audio.chunk import Chunk, chunk_frames, cut_short
from asr.audio.clock import Clock, TimestampError
from asr.audio.headers import asf_seconds, mp3_seconds
from asr.audio.kinds import FFMPEG_FORMATS
from asr.audio.tracks import Track, select_track
from asr.errors import AudioError

__all__ = ["Track", "container_chunks", "container_seconds"]

_STALL_SECONDS = 60.0  # longest time without decoded audio
_MICROSECOND = 1e-6  # the unit of a container's times

# Formats whose timestamps count time rather than samples, so that a jump means missing audio.
_CLOCKED = {"mov", "mp4", "matroska", "webm", "asf", "mpegts", "mpeg", "flv", "ogg", "mxf", "nut", "rm", "wtv", "swf"}
# Formats whose streams may be cut anywhere: an undecodable first or last packet is not damage.
_OPEN_ENDED = {"mp3", "aac", "ac3", "eac3", "dts", "dtshd", "loas", "truehd", "mpegts", "mpeg", "amr"}
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # found between joined MP3 files

_SHORT_SECONDS = 0.25  # a shorter deficit at the end is encoder padding
_SHORT_BESIDE_SECONDS = 2.0  # the same if only the container's length is known
_EDITED_SECONDS = 0.5  # no edit list cuts a longer track to less than this on purpose
_PACKETS = 16  # demuxed at a time
_COMPLAINTS = ("prematurely", "partial file", "truncated")

Frames: TypeAlias = "NDArray[Any]"


def container_chunks(
    file: IO[bytes],
    name: str,
    block_seconds: float,
    track: Track = None,
    *,
    is_damaged: bool = False,
    ignore_length: bool = False,
) -> Generator[Chunk, None, None]:
    """Decode one audio track, with silence for a late start and missing packets.

    Args:
        file: open in binary mode, able to seek.
        name: for errors.
        block_seconds: approximate length of a decoded block.
        track: its number from 1 on, or its language; None: the English one, or else the default one.
        is_damaged: the file is known to have missing or foreign bytes.
        ignore_length: read a WAV file to its end, whatever length its header declares.

    Raises:
        AudioError: it cannot be read, has no such track, or is damaged or cut short; raised after all decodable audio
            has been yielded.
    """
    with contextlib.closing(_Reader(file, name, block_seconds, track, ignore_length)) as reader:
        yield from reader.chunks()
        if is_damaged or reader.is_damaged:
            raise cut_short(name, reader.decoded_seconds, reader.declared_seconds)


def container_seconds(file: IO[bytes]) -> float | None:
    """Length that a container declares; None if it declares none or cannot be read."""
    with contextlib.suppress(AudioError), contextlib.closing(_Reader(file, "", 1.0, None, False)) as reader:
        return reader.declared_seconds
    return None


class _TimedFile:
    """A file whose reads fail after a long time without decoded audio, since some files keep a demuxer busy forever."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._file = file
        self.progress()

    def progress(self) -> None:
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


@dataclass
class _Reader:
    """One pass through a container."""

    file: IO[bytes]
    name: str
    block_seconds: float
    track: Track
    ignore_length: bool
    decoded_seconds: float = 0.0
    declared_seconds: float | None = None
    _bad: list[float] = field(default_factory=list)  # position of each undecodable packet, in decoded seconds
    _complaints: list[str] = field(default_factory=list)
    _end: float = 0.0  # latest end of any track's packets, in seconds

    def __post_init__(self) -> None:
        import av

        self._header_seconds = mp3_seconds(self.file) or asf_seconds(self.file)
        self._timed = _TimedFile(self.file)
        options = {"format_whitelist": FFMPEG_FORMATS, "protocol_whitelist": "file,pipe"}
        if self.ignore_length:
            options["ignore_length"] = "1"
        with _listening() as said:
            try:
                self._container: Any = av.open(
                    self._timed, options=options, metadata_errors="replace", io_open=_no_other_files
                )
            except av.error.EOFError:
                raise cut_short(self.name, 0.0, None) from None
            except (av.error.FFmpegError, TimeoutError) as error:
                raise AudioError(self.name, _reason(error, said)) from None
        self._note(said)
        self._is_estimate = self.ignore_length or any("Estimating duration" in text for _, _, text in said)
        self._formats = set(self._container.format.name.split(","))
        try:
            self._stream = select_track(self._container, self.track, self.name)
        except AudioError:
            self.close()
            raise
        self._measure()

    def _measure(self) -> None:
        """Find the length declared by the track or, failing that, by the container."""
        stream, container = self._stream, self._container
        self._own = stream.duration is not None
        if "mp3" in self._formats:  # PyAV estimates the length of a file that is longer than its Xing header says
            self.declared_seconds = self._header_seconds
        elif self._is_estimate:  # ffmpeg distrusts the header of a file that is much longer
            self.declared_seconds = self._header_seconds
            if "avi" in self._formats and stream.frames:
                self.declared_seconds = float(stream.frames * stream.time_base)
        else:
            if stream.duration is not None:
                self.declared_seconds = _unedited_seconds(stream) or float(stream.duration * stream.time_base)
            elif container.duration is not None:
                self.declared_seconds = container.duration * _MICROSECOND
        self._beside = [one for one in container.streams if one is not stream and _plays(one)]
        if self._own or not self._beside:
            _discard(one for one in container.streams if one is not stream)
        zero = (container.start_time or 0) * _MICROSECOND if self._beside else None
        duration = container.duration * _MICROSECOND if container.duration and not self._is_estimate else None
        limit = float("inf") if duration is None or "mpegts" in self._formats else duration + _SHORT_BESIDE_SECONDS
        self._clock = Clock(bool(self._formats & _CLOCKED), zero, limit)

    def close(self) -> None:
        self._container.close()

    @property
    def is_damaged(self) -> bool:
        """Whether audio is missing; valid once the track has been read to its end."""
        bad = [seconds for seconds in self._bad if seconds > 0]
        if self._formats & _OPEN_ENDED:
            bad = [seconds for seconds in bad if seconds < self.decoded_seconds]
        if bad or (self._bad and not self._formats & _OPEN_ENDED):
            return True
        if self.declared_seconds is None:
            return bool(self._complaints)
        if self._own:
            return self.decoded_seconds < self.declared_seconds - _SHORT_SECONDS
        tolerance = _SHORT_BESIDE_SECONDS if self._beside and not self._complaints else _SHORT_SECONDS
        return self._end < self.declared_seconds - tolerance

    def chunks(self) -> Generator[Chunk, None, None]:
        """Blocks of the track, each with a single rate and number of channels."""
        gathered: list[Frames] = []
        rate = frames = 0
        for frame_rate, values in self._frames():
            if gathered and (frame_rate != rate or _differs(values, gathered[0])):
                yield Chunk(rate, np.concatenate(gathered))
                gathered, frames = [], 0
            rate = frame_rate
            gathered.append(values)
            frames += len(values)
            if frames >= chunk_frames(rate, values.shape[1], self.block_seconds):
                yield Chunk(rate, np.concatenate(gathered))
                gathered, frames = [], 0
            self._timed.progress()
        if gathered:
            yield Chunk(rate, np.concatenate(gathered))

    def _frames(self) -> Iterator[tuple[int, Frames]]:
        """Decoded frames with their rate, and silence where the clock has a gap."""
        for frame in self._decoded():
            values = _values(frame)
            rate = frame.sample_rate
            at = None if frame.pts is None else float(frame.pts * frame.time_base)
            try:
                silence = round(self._clock.gap(at, len(values) / rate) * rate)
            except TimestampError as error:
                raise cut_short(self.name, self.decoded_seconds, self.declared_seconds, str(error)) from None
            block = chunk_frames(rate, values.shape[1], self.block_seconds)
            for start in range(0, silence, block):
                yield rate, np.zeros((min(block, silence - start), values.shape[1]), np.float32)
            if silence and self.decoded_seconds:
                self.decoded_seconds += silence / rate
            self.decoded_seconds += len(values) / rate
            yield rate, values

    def _decoded(self) -> Iterator[Any]:
        """Frames from the decoder; undecodable packets are recorded."""
        import av

        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                if not bytes(packet).startswith(_TAGS):
                    self._bad.append(self.decoded_seconds)
                continue
            if packet.is_corrupt and not self.ignore_length:
                self._bad.append(self.decoded_seconds)
            yield from (frame for frame in frames if frame.samples)

    def _packets(self) -> Iterator[Any]:
        """The track's packets; the demuxer's complaints are recorded."""
        import av

        demuxed, ended = self._container.demux(), False
        while not ended:
            packets: list[Any] = []
            with _listening() as said:
                try:
                    packets.extend(itertools.islice(demuxed, _PACKETS))
                    ended = not packets
                except av.error.FFmpegError:
                    self._complaints.append("truncated")
                    self._bad.append(max(self.decoded_seconds, _MICROSECOND))
                    ended = True
                except TimeoutError as error:
                    raise AudioError(self.name, _reason(error, said)) from None
            self._note(said)
            for packet in packets:
                self._note_end(packet)
                if packet.stream_index == self._stream.index:
                    yield packet

    def _note(self, said: list[tuple[int, str, str]]) -> None:
        """Record the demuxer's messages about damage."""
        self._complaints += [text for _, _, text in said if any(word in text for word in _COMPLAINTS)]
        if any(part == "ogg" and "CRC mismatch" in text for _, part, text in said):
            self._bad.append(max(self.decoded_seconds, _MICROSECOND))  # the demuxer drops the page

    def _note_end(self, packet: Any) -> None:
        if not self._own and packet.pts is not None and packet.time_base is not None:
            self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))


@contextlib.contextmanager
def _listening() -> Iterator[list[tuple[int, str, str]]]:
    """Collect the messages of ffmpeg's libraries as (level, part, text), and keep them off the terminal."""
    import av

    _silence()
    with av.logging.Capture(local=True) as entries:
        yield entries


@functools.cache
def _silence() -> None:
    """Deliver the libraries' messages to `_listening` alone: none is printed, not even from decoder threads."""
    import av

    logging.getLogger("libav").addHandler(logging.NullHandler())
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # else "(repeated 3 more times)" appears when the next file is read


def _no_other_files(url: str, flags: int, options: dict[str, str]) -> Any:
    """A playlist in disguise must not lead to other files."""
    raise PermissionError(f"{url} is another file")


def _reason(error: Exception, said: list[tuple[int, str, str]]) -> str:
    """The reason why a file cannot be read, worded for users."""
    if isinstance(error, TimeoutError):
        return f"nothing could be decoded in {_STALL_SECONDS:g} s"
    if any("not on whitelist" in text for _, _, text in said):
        return "is not audio: it looks like a playlist or an unsupported format"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _plays(stream: Any) -> bool:
    """Whether a stream has a length in time, unlike a cover picture."""
    import av

    return stream.type in ("audio", "video") and not stream.disposition & av.stream.Disposition.attached_pic


def _discard(streams: Iterable[Any]) -> None:
    """Skip these streams' packets, unread where the container allows it."""
    import av

    if discard := getattr(av.stream, "Discard", None):  # since PyAV 18
        for stream in streams:
            stream.discard = discard.all


def _unedited_seconds(stream: Any) -> float | None:
    """Length of an MP4 track whose edit list is damaged and would drop nearly all of it; None for others."""
    if not stream.frames or stream.duration * stream.time_base > _EDITED_SECONDS or not stream.rate:
        return None
    seconds = float(stream.frames * (stream.codec_context.frame_size or 1) / stream.rate)
    return seconds if seconds > 2 * _EDITED_SECONDS else None


def _values(frame: Any) -> Frames:
    """`(frames, channels)` of a decoded frame.

    PyAV counts planes up to the first null pointer. From 8 channels on that pointer lies beyond the real planes, so
    `frame.to_ndarray` would read arbitrary memory.
    """
    from av.audio.frame import format_dtypes

    planes = frame.planes[: frame.layout.nb_channels if frame.format.is_planar else 1]
    dtype = np.dtype(format_dtypes[frame.format.name])
    count = frame.samples if frame.format.is_planar else frame.samples * frame.layout.nb_channels
    values = np.stack([np.frombuffer(plane, dtype, count) for plane in planes], axis=1)
    return values.reshape(frame.samples, -1)


def _differs(values: Frames, first: Frames) -> bool:
    return values.shape[1] != first.shape[1] or values.dtype != first.dtype
