"""Any file, array or stream → 16 kHz mono float32 waveform; the only place that resamples.

libsndfile reads what it can (wav, flac, ogg, opus, mp3, aiff, ...); anything else (video, m4a, webm, ...) goes through
an `ffmpeg` child process where that is installed. Everything is read forwards in blocks, so memory stays flat whatever
the length. A source that cannot be read whole is an `AudioError`, never a shorter waveform.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from asr.config import require
from asr.errors import AudioError

__all__ = ["SAMPLE_RATE", "Resampler", "Source", "blocks", "duration_seconds", "load", "source_name"]

SAMPLE_RATE = 16_000
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000

Source: TypeAlias = "str | os.PathLike[str] | BinaryIO | NDArray[Any] | torch.Tensor"

# However many channels there are, no more than this is decoded at a time: 16 MiB of float32.
_MAX_CHUNK_VALUES = 1 << 22
_PROBE_BYTES = 4096
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
_AU_HEADER = struct.Struct(">4s5I")  # magic, header bytes, data bytes, encoding, sample rate, channels


class _Chunk(NamedTuple):
    """Decoded audio at its own rate: `values` is `(frames, channels)`."""

    sample_rate: int
    values: NDArray[Any]


class Resampler:
    """One mono stream brought to 16 kHz: the result is the same however the stream is cut.

    Args:
        sample_rate: the stream's own rate in Hz, 1 kHz to 768 kHz; at 16 kHz samples pass through untouched.
        source: what an error should name.

    Raises:
        AudioError: the rate is out of these bounds.
    """

    def __init__(self, sample_rate: int, source: object = "stream") -> None:
        if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
            bounds = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            raise AudioError(source, f"its sample rate is {sample_rate} Hz: it must be {bounds}")
        self.sample_rate = sample_rate
        self._stream: Any = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def step(self, chunk: torch.Tensor) -> torch.Tensor:
        """Take the next samples, `(samples,)` float32 on the CPU, and return those ready at 16 kHz: maybe none."""
        if self._stream is None:
            return chunk
        return torch.from_numpy(self._stream.resample_chunk(chunk.numpy()))

    def flush(self) -> torch.Tensor:
        """Return the samples that were still waiting for their right-hand neighbours; then a new stream may start."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._stream is None:
            return torch.from_numpy(nothing)
        tail = torch.from_numpy(self._stream.resample_chunk(nothing, last=True))
        self._stream.clear()
        return tail


def blocks(
    source: Source, *, sample_rate: int | None = None, block_seconds: float = 30.0
) -> Generator[torch.Tensor, None, None]:
    """Read a source from start to end in flat memory.

    Args:
        source: a path, "-" for standard input, a binary file object, or an array or tensor: `(samples,)`, or
            two-dimensional with its shorter side (the first, where both are equal) the channels. Arrays hold floats, or
            int8, int16, int32 or uint8, which are scaled to [-1, 1]. Channels are averaged.
        sample_rate: of an array, in Hz; files bring their own.
        block_seconds: about how much to read at a time; less where there are many channels.

    Yields:
        16 kHz mono float32 tensors `(samples,)`, none empty. Floats beyond ±1 are left as they are.

    Raises:
        AudioError: missing, not readable, not audio, empty, cut short, holds NaN or infinity, or a rate out of bounds.
        ConfigError: `block_seconds` is not positive.
    """
    require(block_seconds > 0, "block_seconds", block_seconds, "positive")
    name = source_name(source)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        chunks = _array_chunks(source, sample_rate, name, block_seconds)
    elif sample_rate is not None:
        raise AudioError(name, "brings its own sample rate: sample_rate is for arrays only")
    else:
        chunks = _file_chunks(source, name, block_seconds)

    resampler: Resampler | None = None
    samples_in = samples_out = 0
    with contextlib.closing(chunks):  # an early end of this generator must end ffmpeg too
        for rate, values in chunks:
            resampler = resampler or Resampler(rate, name)
            waveform = _mono(values, name)
            _check_finite(waveform, samples_in, rate, name)
            samples_in += len(waveform)
            if len(block := resampler.step(torch.from_numpy(waveform))):
                samples_out += len(block)
                yield block
    if resampler is not None and len(tail := resampler.flush()):
        samples_out += len(tail)
        yield tail
    if samples_out == 0:
        raise AudioError(name, "holds no samples")


def load(source: Source, *, sample_rate: int | None = None) -> torch.Tensor:
    """Read a whole source: the concatenation of its `blocks`, `(samples,)`; raises what they raise."""
    return torch.cat(list(blocks(source, sample_rate=sample_rate)))


def duration_seconds(path: str | os.PathLike[str]) -> float | None:
    """How long a file says it is, from its header alone; None where that cannot be told."""
    import soundfile

    try:
        if not Path(path).is_file():  # opening a named pipe would eat what is in it
            return None
        with Path(path).open("rb") as file, soundfile.SoundFile(file) as sound:
            return float(sound.frames / sound.samplerate) if sound.frames < _UNKNOWN_FRAMES else None
    except (OSError, ValueError, soundfile.LibsndfileError):
        return None


def source_name(source: object) -> str:
    """The source as the user would name it."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, torch.Tensor):
        return "tensor"
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if source == "-" else os.fsdecode(source)
    if isinstance(source, io.TextIOBase):
        raise AudioError(getattr(source, "name", "stream"), "is open as text: open it in binary mode")
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return name if isinstance(name, str) else "stream"
    raise AudioError(type(source).__name__, "is not a path, an array, a tensor or a binary file object")


def _chunk_frames(rate: int, channels: int, block_seconds: float) -> int:
    return max(1, int(min(rate * block_seconds, _MAX_CHUNK_VALUES / channels)))


def _mono(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Scale to [-1, 1] where the samples are integers and average the channels: `(frames, channels)` → `(frames,)`."""
    kind = values.dtype
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported later, with its place
        if kind == np.uint8:
            values = (values.astype(np.float32) - 128) / 128
        elif kind.kind == "i" and kind.itemsize <= 4:
            values = values.astype(np.float32) / 2.0 ** (8 * kind.itemsize - 1)
        elif kind.kind != "f":
            raise AudioError(name, f"its samples are {kind}: they must be float, int8, int16, int32 or uint8")
        mono = values[:, 0] if values.shape[1] == 1 else values.mean(axis=1, dtype=np.float32)
        return np.ascontiguousarray(mono, dtype=np.float32)


def _check_finite(waveform: NDArray[np.float32], samples_before: int, rate: int, name: str) -> None:
    finite = np.isfinite(waveform)
    if finite.all():
        return
    first, bad = int(finite.argmin()), int(len(finite) - finite.sum())
    more = f", and {bad - 1} more soon after" if bad > 1 else ""
    raise AudioError(name, f"the sample at {(samples_before + first) / rate:.3f} s is NaN or infinite{more}")


def _array_chunks(
    source: NDArray[Any] | torch.Tensor, rate: int | None, name: str, block_seconds: float
) -> Generator[_Chunk, None, None]:
    if rate is None:
        raise AudioError(name, "needs its sample_rate")
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if source.ndim not in (1, 2):
        raise AudioError(name, f"its shape is {tuple(source.shape)}: it must have one or two dimensions")
    if source.size == 0:
        return
    values = source[:, None] if source.ndim == 1 else source if source.shape[1] < source.shape[0] else source.T
    frames = _chunk_frames(rate, values.shape[1], block_seconds)
    for start in range(0, len(values), frames):
        yield _Chunk(rate, values[start : start + frames].copy())  # the caller may go on to change the array


def _file_chunks(
    source: str | os.PathLike[str] | BinaryIO, name: str, block_seconds: float
) -> Generator[_Chunk, None, None]:
    """Decode a file with libsndfile, or else with ffmpeg."""
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
                yield from _sndfile_chunks(sound, name, block_seconds)


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


def _sndfile_chunks(sound: Any, name: str, block_seconds: float) -> Generator[_Chunk, None, None]:
    import soundfile

    # soundfile seeks after each read where it can, and that fails at the end of a flac of unknown length.
    sound.seekable = lambda: False
    rate = sound.samplerate
    total = sound.frames / rate if sound.frames < _UNKNOWN_FRAMES else None
    if declared := _DECLARED_BYTES.search(sound.extra_info):
        wanted, present = int(declared[1]), int(declared[2])
        # libsndfile quietly trusts the file's length over its header's.
        if total and wanted < _PLACEHOLDER_BYTES and total * (wanted / max(present, 1) - 1) > _SLOPPY_SECONDS:
            raise _cut_short(name, total, total * wanted / present)
    frames, frames_read = _chunk_frames(rate, sound.channels, block_seconds), 0
    while True:
        try:
            values = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise _cut_short(name, max(sound.tell(), frames_read) / rate, total) from None
        if len(values) == 0:
            break
        frames_read += len(values)
        yield _Chunk(rate, values)
    if total is not None and frames_read < sound.frames and sound.format not in _ESTIMATED_FORMATS:
        raise _cut_short(name, frames_read / rate, total)


def _ffmpeg_chunks(path: str, name: str, block_seconds: float) -> Generator[_Chunk, None, None]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(name, "libsndfile cannot read it, so it needs ffmpeg, which is not installed")
    # The AU container is raw samples behind their rate and channels, so neither is ffmpeg's to convert. The whitelist
    # keeps playlists from reaching for the network.
    command = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    command += ["-vn", "-sn", "-dn", "-f", "au", "-c:a", "pcm_f32be", "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,  # a pipe nobody reads would fill up and block ffmpeg
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as child,
    ):
        try:
            stdout = cast(IO[bytes], child.stdout)
            rate, frames_read = 1, 0
            if len(header := stdout.read(_AU_HEADER.size)) == _AU_HEADER.size:
                _, header_bytes, _, _, rate, channels = _AU_HEADER.unpack(header)
                stdout.read(header_bytes - _AU_HEADER.size)
                frame_bytes = 4 * channels
                chunk_bytes = frame_bytes * _chunk_frames(rate, channels, block_seconds)
                while data := stdout.read(chunk_bytes):
                    values = np.frombuffer(data[: len(data) // frame_bytes * frame_bytes], dtype=">f4")
                    frames_read += len(values) // channels
                    yield _Chunk(rate, values.reshape(-1, channels))
            failed = child.wait() != 0
            reason = _last_message(messages, path)
            if "partial file" in reason:  # said, but not counted as a failure
                raise _cut_short(name, frames_read / rate, None)
            if failed:
                raise AudioError(name, reason)
        finally:
            child.kill()  # nothing, if it has ended


def _last_message(messages: IO[bytes], path: str) -> str:
    """The last line that ffmpeg wrote, in words that mean something to someone who never started it."""
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - _PROBE_BYTES))
    text = messages.read().decode(errors="replace").strip()
    if "does not contain any stream" in text:
        return "has no audio track"
    lines = text.splitlines() or ["failed without a message"]
    return "ffmpeg: " + lines[-1].removeprefix(f"file:{path}: ")
