"""Lengths declared by headers, for checks that the decoders lack: a file cut short, a WAV longer than its header."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

__all__ = ["TAGS", "WavData", "asf_seconds", "declared_bytes", "mp3_seconds", "ogg_is_damaged", "wav_data"]

PLACEHOLDER_BYTES = 0x7FFF_0000
"""Headers written before the length was known hold a placeholder near 2 or 4 GiB."""

TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""Starts of tags, which may follow the audio of any format, and lie between joined MP3 files."""

_MAX_CHUNKS = 10_000
_SLACK_BYTES = 1024  # padding after the data of a WAV file
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page
_MPEG1_RATES = (44_100, 48_000, 32_000)
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


class WavData(NamedTuple):
    """The data chunk of a WAV file."""

    format_tag: int  # 1: PCM, 0x55: MP3, ...
    reads_on: bool  # audio continues past the declared length, to the end of the file

    @property
    def is_mpeg(self) -> bool:
        return self.format_tag in (0x50, 0x55)


def wav_data(file: IO[bytes], size: int) -> WavData | None:
    """The data chunk of a RIFF WAV file; None where there is none.

    A declared size is wrong if it is 0 and data follow (the recorder was killed), or if the data after it are not a
    chunk: the size wrapped at 4 GiB, or was never updated.
    """
    if _read(file, 0, 4) != b"RIFF" or _read(file, 8, 4) != b"WAVE":
        return None
    format_tag = 0
    for name, start, length in _riff_chunks(file, 12, size):
        if name == b"fmt ":
            format_tag = int.from_bytes(_read(file, start, 2), "little")
        if name == b"data":
            end = start + length
            follows = size - end > (_SLACK_BYTES if length else 0)
            return WavData(format_tag, follows and not _ends_in_chunks(file, end + (length & 1), size))
    return None


def declared_bytes(file: IO[bytes], size: int) -> int | None:
    """Size of the whole file as declared by its header; None if it declares none.

    Supported: Matroska and WebM, MP4 and its relatives, AVI, ASF (WMA), W64, RF64, CAF, MP3 with a Xing header.
    """
    head = _read(file, 0, 16)
    for recognises, measure in _MEASURES:
        if recognises(head):
            with contextlib.suppress(struct.error, IndexError):  # the header itself is cut
                return measure(file, size)
    return None


def _read(file: IO[bytes], position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _riff_chunks(file: IO[bytes], position: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and declared length of each chunk that begins in the file."""
    for _ in range(_MAX_CHUNKS):
        if position + 8 > size:
            return
        name, length = struct.unpack("<4sI", _read(file, position, 8))
        yield name, position + 8, length
        position += 8 + length + (length & 1)


def _ends_in_chunks(file: IO[bytes], position: int, size: int) -> bool:
    """Whether the rest of the file consists of chunks or a tag."""
    if _read(file, position, 8).startswith(TAGS):
        return True
    end = position
    for name, start, length in _riff_chunks(file, position, size):
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return size - start < _SLACK_BYTES
        end = start + length
    return end <= size + 1


def _avi_bytes(file: IO[bytes], size: int) -> int | None:
    end = 0
    for name, start, length in _riff_chunks(file, 0, size):
        if name != b"RIFF" or not 0 < length < PLACEHOLDER_BYTES:
            break
        end = start + length
    return end or None


def _w64_bytes(file: IO[bytes], size: int) -> int | None:
    (length,) = struct.unpack("<Q", _read(file, 16, 8))
    return int(length)


def _rf64_bytes(file: IO[bytes], size: int) -> int | None:
    name, _, length = struct.unpack("<4sIQ", _read(file, 12, 16))
    return int(length) + 8 if name == b"ds64" else None


def _caf_bytes(file: IO[bytes], size: int) -> int | None:
    position = 8
    for _ in range(_MAX_CHUNKS):
        if position + 12 > size:
            break
        (length,) = struct.unpack(">q", _read(file, position + 4, 8))
        if length < 0:  # up to the end of the file
            return None
        position += 12 + length
    return position


def _asf_bytes(file: IO[bytes], size: int) -> int | None:
    header = _read(file, 0, 1 << 16)
    start = header.index(_ASF_FILE) if _ASF_FILE in header else len(header)
    length, flags = struct.unpack_from("<Q", header, start + 40)[0], header[start + 88]
    return None if flags & 1 else int(length)  # 1: broadcast, the header was never completed


def asf_seconds(file: IO[bytes]) -> float | None:
    """Length of an ASF (WMA) file from its header; None if it has none or the header was never completed."""
    header = _read(file, 0, 1 << 16)
    start = header.find(_ASF_FILE)
    if not header.startswith(_ASF_HEADER) or start < 0 or len(header) < start + 92 or header[start + 88] & 1:
        return None
    ticks, _, preroll = struct.unpack_from("<QQQ", header, start + 64)
    return float(max(0.0, ticks * 1e-7 - preroll * 1e-3))


def _mp4_bytes(file: IO[bytes], size: int) -> int | None:
    position = 0
    for _ in range(_MAX_CHUNKS):
        if position + 8 > size:
            break
        (length,) = struct.unpack(">I", _read(file, position, 4))
        if length == 1:
            (length,) = struct.unpack(">Q", _read(file, position + 8, 8))
        if length < 8:  # 0: to the end of the file
            return None
        position += length
    return position


def _matroska_bytes(file: IO[bytes], size: int) -> int | None:
    head = _read(file, 0, 4096)
    _, length, start = _ebml_element(head, 0)
    if length is None:
        return None
    name, segment, start = _ebml_element(head, start + length)
    return start + segment if name == _SEGMENT and segment is not None else None


def _ebml_element(data: bytes, position: int) -> tuple[int, int | None, int]:
    """Id, length (None: unknown) and start of the element at a position."""
    id_bytes = 9 - data[position].bit_length()
    name = int.from_bytes(data[position : position + id_bytes], "big")
    position += id_bytes
    length_bytes = 9 - data[position].bit_length()
    bits = 7 * length_bytes
    length = int.from_bytes(data[position : position + length_bytes], "big") & ((1 << bits) - 1)
    return name, None if length == (1 << bits) - 1 else length, position + length_bytes


class _Xing(NamedTuple):
    start: int  # of the frame that contains the header
    frame: bytes
    frames: int
    bytes: int


def mp3_seconds(file: IO[bytes]) -> float | None:
    """Length of an MP3 file from its Xing header; None without one."""
    xing = _xing(file)
    if xing is None or len(xing.frame) < 4:
        return None
    version, layer, rate = xing.frame[1] >> 3 & 3, xing.frame[1] >> 1 & 3, xing.frame[2] >> 2 & 3
    if layer != 1 or rate == 3 or version == 1:  # only layer 3 has a Xing header; the other values are reserved
        return None
    return xing.frames * (1152 if version == 3 else 576) / (_MPEG1_RATES[rate] >> (3 - version + 1) // 2)


def _xing(file: IO[bytes]) -> _Xing | None:
    head = _read(file, 0, 10)
    start = 0
    if head.startswith(b"ID3") and len(head) == 10:
        start = 10 + sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(head[6:10]))
    found = _read(file, start, 4096)
    start, frame = start + max(found.find(b"\xff"), 0), found[max(found.find(b"\xff"), 0) :]
    place = max(frame[:200].find(b"Xing"), frame[:200].find(b"Info"))
    if place < 0 or len(frame) < place + 16:
        return None
    flags, frames, length = struct.unpack_from(">III", frame, place + 4)
    return _Xing(start, frame, frames, length) if flags & 3 == 3 else None  # frames and bytes


def _mp3_bytes(file: IO[bytes], size: int) -> int | None:
    xing = _xing(file)
    return xing.start + xing.bytes if xing else None


def ogg_is_damaged(file: IO[bytes], size: int) -> bool:
    """Whether an Ogg file holds bytes outside any page or a partial page, at which ffmpeg would stop.

    A tag, or anything after the stream's last page, is not damage.
    """
    if _read(file, 0, 4) != b"OggS":
        return False
    position, is_last = 0, False
    while position < size:
        header = _read(file, position, 27 + 255)
        if not header.startswith(b"OggS"):
            rest = header + file.read(_OGG_PAGE_BYTES)
            return b"OggS" in rest or not (is_last or rest.startswith(TAGS))
        segments = header[26] if len(header) > 26 else 0
        is_last = len(header) > 26 and bool(header[5] & 4)
        position += 27 + segments + sum(header[27 : 27 + segments])
    return position > size


_MEASURES: tuple[tuple[Callable[[bytes], bool], Callable[[IO[bytes], int], int | None]], ...] = (
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", _avi_bytes),
    (lambda head: head == _W64_RIFF, _w64_bytes),
    (lambda head: head[:4] == b"RF64", _rf64_bytes),
    (lambda head: head[:4] == b"caff", _caf_bytes),
    (lambda head: head == _ASF_HEADER, _asf_bytes),
    (lambda head: head[4:8] == b"ftyp", _mp4_bytes),
    (lambda head: head[:4] == _EBML.to_bytes(4, "big"), _matroska_bytes),
    (lambda head: head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"), _mp3_bytes),
)
