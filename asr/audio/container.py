"""Compressed files and containers through ffmpeg's libraries (PyAV), on the container's own clock."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asr.audio import libav
from asr.audio.chunk import Chunk, chunk_frames, cut_short
from asr.audio.clock import Clock, TimestampError
from asr.audio.headers import TAGS, asf_seconds, mp3_seconds
from asr.audio.tracks import Track, select_track
from asr.errors import AudioError

__all__ = ["container_chunks", "container_seconds"]

_MICROSECOND = 1e-6  # the unit of a container's times

# Formats whose timestamps count time rather than samples, so that a jump means missing audio.
_CLOCKED = {"mov", "mp4", "matroska", "webm", "asf", "mpegts", "mpeg", "flv", "ogg", "mxf", "nut", "rm", "wtv", "swf"}
# Formats whose streams may be cut anywhere: an undecodable first or last packet is not damage.
_OPEN_ENDED = {"mp3", "aac", "ac3", "eac3", "dts", "dtshd", "loas", "truehd", "mpegts", "mpeg", "amr"}

_PADDING_SECONDS = 0.25  # a smaller deficit at the end is encoder padding
_OTHER_TRACK_SECONDS = 2.0  # the same if only the container's length is known, which another track may determine
_EDITED_SECONDS = 0.5  # no edit list cuts a longer track to less than this on purpose
_PACKETS = 16  # demuxed at a time
_COMPLAINTS = ("prematurely", "partial file", "truncated")  # of a demuxer, about damage

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
    with contextlib.closing(_TrackDecoder(file, name, block_seconds, track, ignore_length)) as decoder:
        yield from decoder.chunks()
        if is_damaged or decoder.is_damaged:
            raise cut_short(name, decoder.decoded_seconds, decoder.declared_seconds)


def container_seconds(file: IO[bytes]) -> float | None:
    """Length that a container declares; None if it declares none or cannot be read."""
    with contextlib.suppress(AudioError), contextlib.closing(_TrackDecoder(file, "", 1.0, None, False)) as decoder:
        return decoder.declared_seconds
    return None


class _TrackDecoder:
    """Decodes one audio track from start to end, and collects evidence of missing audio.

    Attributes:
        decoded_seconds: length of the decoded audio, without silence before its start.
        declared_seconds: length that a header declares; None: not known.
    """

    def __init__(self, file: IO[bytes], name: str, block_seconds: float, track: Track, ignore_length: bool) -> None:
        self._name, self._block_seconds, self._ignore_length = name, block_seconds, ignore_length
        self.decoded_seconds = 0.0
        self._bad_packets: list[float] = []  # positions, in decoded seconds
        self._complaints: list[str] = []
        self._end_seconds = 0.0  # latest end of any track's packets

        header_seconds = mp3_seconds(file) or asf_seconds(file)
        self._file = libav.WatchedFile(file)
        self._container, messages = libav.open_container(self._file, name, ignore_length=ignore_length)
        self._note(messages)
        is_estimate = ignore_length or any("Estimating duration" in message.text for message in messages)
        self._formats = set(self._container.format.name.split(","))
        try:
            self._stream = select_track(self._container, track, name)
        except AudioError:
            self.close()
            raise

        others = [stream for stream in self._container.streams if stream is not self._stream]
        self._track_has_length = self._stream.duration is not None
        self._has_other_tracks = any(map(libav.has_length, others))
        if self._track_has_length or not self._has_other_tracks:  # else their ends show whether the file is whole
            libav.discard(others)
        self.declared_seconds = self._declared(header_seconds, is_estimate)
        self._clock = self._start_clock(is_estimate)

    def _declared(self, header_seconds: float | None, is_estimate: bool) -> float | None:
        """The length declared by the track or, failing that, by the container."""
        stream, container = self._stream, self._container
        if "mp3" in self._formats:  # PyAV estimates the length of a file that is longer than its Xing header says
            return header_seconds
        if is_estimate:  # ffmpeg distrusts the header of a file that is much longer
            is_counted = "avi" in self._formats and stream.frames
            return float(stream.frames * stream.time_base) if is_counted else header_seconds
        if stream.duration is not None:
            return _unedited_seconds(stream) or float(stream.duration * stream.time_base)
        return None if container.duration is None else float(container.duration * _MICROSECOND)

    def _start_clock(self, is_estimate: bool) -> Clock:
        container = self._container
        zero = (container.start_time or 0) * _MICROSECOND if self._has_other_tracks else None
        limit = float("inf")
        if container.duration and not is_estimate and "mpegts" not in self._formats:
            limit = container.duration * _MICROSECOND + _OTHER_TRACK_SECONDS
        return Clock(bool(self._formats & _CLOCKED), zero, limit)

    def close(self) -> None:
        self._container.close()

    @property
    def is_damaged(self) -> bool:
        """Whether audio is missing; valid once the track has been read to its end."""
        bad = self._bad_packets
        if self._formats & _OPEN_ENDED:
            bad = [seconds for seconds in bad if 0 < seconds < self.decoded_seconds]
        if bad:
            return True
        if self.declared_seconds is None:
            return bool(self._complaints)
        if self._track_has_length:
            return self.decoded_seconds < self.declared_seconds - _PADDING_SECONDS
        tolerance = _OTHER_TRACK_SECONDS if self._has_other_tracks and not self._complaints else _PADDING_SECONDS
        return self._end_seconds < self.declared_seconds - tolerance

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
            if frames >= chunk_frames(rate, values.shape[1], self._block_seconds):
                yield Chunk(rate, np.concatenate(gathered))
                gathered, frames = [], 0
            self._file.note_progress()
        if gathered:
            yield Chunk(rate, np.concatenate(gathered))

    def _frames(self) -> Iterator[tuple[int, Frames]]:
        """Decoded frames with their rate, and silence where the clock has a gap."""
        for frame in self._decoded():
            values = libav.values(frame)
            rate = frame.sample_rate
            at = None if frame.pts is None else float(frame.pts * frame.time_base)
            try:
                silence = round(self._clock.gap(at, len(values) / rate) * rate)
            except TimestampError as error:
                raise cut_short(self._name, self.decoded_seconds, self.declared_seconds, str(error)) from None
            block = chunk_frames(rate, values.shape[1], self._block_seconds)
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
                if not bytes(packet).startswith(TAGS):
                    self._bad_packets.append(self.decoded_seconds)
                continue
            if packet.is_corrupt and not self._ignore_length:
                self._bad_packets.append(self.decoded_seconds)
            yield from (frame for frame in frames if frame.samples)

    def _packets(self) -> Iterator[Any]:
        """The track's packets; the demuxer's complaints are recorded."""
        import av

        demuxed, ended = self._container.demux(), False
        while not ended:
            packets: list[Any] = []
            try:
                with libav.captured_messages() as messages:
                    packets.extend(itertools.islice(demuxed, _PACKETS))
                ended = not packets
            except av.error.FFmpegError:
                self._complaints.append("truncated")
                self._bad_packets.append(max(self.decoded_seconds, _MICROSECOND))
                ended = True
            except TimeoutError as error:
                raise AudioError(self._name, libav.reason(error)) from None
            self._note(messages)
            for packet in packets:
                self._note_end(packet)
                if packet.stream_index == self._stream.index:
                    yield packet

    def _note(self, messages: list[libav.Message]) -> None:
        """Record the demuxer's messages about damage."""
        self._complaints += [m.text for m in messages if any(word in m.text for word in _COMPLAINTS)]
        if any(m.part == "ogg" and "CRC mismatch" in m.text for m in messages):
            self._bad_packets.append(max(self.decoded_seconds, _MICROSECOND))  # the demuxer drops the page

    def _note_end(self, packet: Any) -> None:
        if not self._track_has_length and packet.pts is not None and packet.time_base is not None:
            end_seconds = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end_seconds = max(self._end_seconds, end_seconds)


def _unedited_seconds(stream: Any) -> float | None:
    """Length of an MP4 track whose edit list is damaged and would drop nearly all of it; None for others."""
    if not stream.frames or stream.duration * stream.time_base > _EDITED_SECONDS or not stream.rate:
        return None
    seconds = float(stream.frames * (stream.codec_context.frame_size or 1) / stream.rate)
    return seconds if seconds > 2 * _EDITED_SECONDS else None


def _differs(values: Frames, first: Frames) -> bool:
    return values.shape[1] != first.shape[1] or values.dtype != first.dtype
