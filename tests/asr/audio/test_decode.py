"""Files of any format are read whole, or one line names the reason."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, blocks, libav, load
from asr.audio.decode import duration_seconds
from asr.errors import AudioError
from tests.support.sounds import WAV, Pipe, reason, tone, write

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def test_a_file_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(3.3))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the last 36 bits before the checksum are the length; zero is "unknown"
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert duration_seconds(path) is None
    assert len(load(path)) == round(3.3 * SAMPLE_RATE)

    data = bytearray(WAV)
    data[4:8] = data[40:44] = b"\xff" * 4
    assert len(load(io.BytesIO(data))) == len(tone())


def test_file_objects_are_read_and_stay_open() -> None:
    file = io.BytesIO(WAV)
    assert len(load(file)) == len(tone())
    assert not file.closed
    assert len(load(file)) == len(tone())  # from the start again


@pytest.mark.parametrize("kind", [Pipe, io.BytesIO])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, kind: type[io.BytesIO]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=kind(WAV)))
    assert len(load("-")) == len(tone())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=kind(b"")))
    assert reason("-") == "standard input: is empty (0 bytes)"
    monkeypatch.setattr(sys, "stdin", None)
    assert reason("-") == "standard input: is closed"
    terminal = kind(WAV)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=terminal))
    assert reason("-") == "standard input: is a terminal: pipe audio to it"


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert duration_seconds(path) is None
    writer = threading.Thread(target=path.write_bytes, args=(WAV,))
    writer.start()
    assert len(load(path)) == len(tone())
    writer.join()


def test_paths_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    assert reason(empty) == f"{empty}: is empty (0 bytes)"
    assert reason(tmp_path) == f"{tmp_path}: is a directory, not an audio file"
    assert reason(str(tmp_path / "none.wav")) == f"{tmp_path}/none.wav: no such file"
    assert "null byte" in reason("a\0b.wav")
    assert reason(write(tmp_path / "short.wav", tone(0))) == f"{tmp_path}/short.wav: holds no samples"
    assert "is open as text" in reason(io.StringIO("RIFF"))
    assert "bytes: is not a path" in reason(b"RIFF")
    assert [duration_seconds(path) for path in (empty, tmp_path, tmp_path / "none.wav", "a\0b", "-")] == [None] * 5

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(empty) == f"{empty}: permission denied"


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.txt", "a.m4a"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("naïve text\n".encode() * 999, "text"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "text"),
        (b"%PDF-1.7 \x00\xff", "a PDF document"),
        (b"PK\x03\x04\x00\xff", "a zip archive"),
    ],
)
def test_what_is_plainly_not_audio_is_called_so(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert reason(path) == f"{path}: is not audio: it looks like {kind}"


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.aiff", "a.au"])
def test_a_file_cut_short_says_how_much_is_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000))
    os.truncate(path, path.stat().st_size // 2)
    message = reason(path)
    assert message.startswith(f"{path}: is damaged or cut short: 2.")
    assert message.endswith(" s of 5.00 s could be read")


def test_a_header_that_tells_it_is_believed_at_once_unless_the_damaged_are_kept(tmp_path: Path) -> None:
    """A file shorter than its header says is refused before hours of it are decoded, unless damaged files are kept."""
    path = write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AudioError, match="cut short"):
        next(blocks(path, block_seconds=0.5))
    heard = []
    with pytest.raises(AudioError, match="cut short"):
        heard.extend(blocks(path, block_seconds=0.5, keep_damaged=True))
    assert sum(map(len, heard)) == pytest.approx(40_000, abs=100)


@settings(max_examples=40)
@given(st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"\xff\xfb\x90\x00", b"FORM"]), st.binary(max_size=200))
def test_noise_is_an_audio_error_or_audio(magic: bytes, content: bytes) -> None:
    with contextlib.suppress(AudioError):
        assert len(load(io.BytesIO(magic + content))) > 0


@settings(max_examples=40)
@given(st.integers(0, 299), st.integers(0, 255))
def test_a_damaged_header_is_an_audio_error_or_audio(place: int, value: int) -> None:
    content = bytearray(WAV)
    content[place] = value
    with contextlib.suppress(AudioError):
        assert len(load(io.BytesIO(content))) > 0


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.m4a"
    stereo = np.stack([tone(2, 44_100), tone(2, 44_100)], axis=1)
    wav = write(tmp_path / "a.wav", stereo, 44_100)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-movflags", "+faststart", path], check=True)
    return path


@needs_ffmpeg
def test_other_containers_are_read_from_paths_files_and_pipes(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = load(video)
    assert len(waveform) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert waveform.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert duration_seconds(video) == pytest.approx(2, abs=0.1)
    content = video.read_bytes()
    assert torch.equal(load(io.BytesIO(content)), waveform)
    with video.open("rb") as file:
        assert torch.equal(load(file), waveform)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
    assert torch.equal(load("-"), waveform)


@needs_ffmpeg
def test_containers_that_cannot_be_read(video: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.m4a"
    noise.write_bytes(bytes(range(256)) * 20)
    assert reason(noise) == f"{noise}: is not audio, or its beginning is damaged"
    silent = tmp_path / "silent.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=size=32x32:duration=0.2", str(silent)]
    subprocess.run(command, check=True)
    assert reason(silent) == f"{silent}: has no audio track"
    os.truncate(video, video.stat().st_size // 2)
    assert "is damaged or cut short" in reason(video)


@needs_ffmpeg  # to make the video
def test_a_file_on_which_nothing_is_decoded_is_not_read_for_ever(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server reads uploads one after the other, and one such file once blocked all later ones."""
    monkeypatch.setattr(libav, "_STALL_SECONDS", -1.0)
    assert reason(video) == f"{video}: nothing could be decoded in -1 s"


@needs_ffmpeg
def test_a_playlist_does_not_lead_to_other_files(video: Path, tmp_path: Path) -> None:
    """A playlist with a stray byte was not taken for text, and the file that it names was read."""
    playlist = tmp_path / "talk.m4a"
    playlist.write_bytes(b"ffconcat version 1.0\nfile " + video.name.encode() + b"\n#\xff\n")
    assert video.parent == tmp_path
    assert reason(playlist) == f"{playlist}: is not audio: it looks like a playlist or an unsupported format"


@pytest.mark.parametrize(("name", "hinted"), [("a.raw", True), ("a.ulaw", True), ("a.pcm", True), ("a.dat", False)])
def test_samples_without_a_header_get_a_hint(tmp_path: Path, name: str, hinted: bool) -> None:
    """A file named .raw was read as raw samples by soundfile, whose TypeError ended the whole batch."""
    path = tmp_path / name
    path.write_bytes((np.random.default_rng(0).integers(-99, 99, 9000)).astype("<i2").tobytes())
    assert ("listen --stdin" in reason(path)) == hinted


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(WAV)
    assert len(load(path)) == len(tone())


def test_any_exception_of_a_library_is_an_audio_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad file must not end the others."""
    import soundfile

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("of a kind\nthat nobody expected")

    path = write(tmp_path / "a.wav", tone())
    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    assert reason(path) == f"{path}: cannot be decoded: of a kind that nobody expected"


class FailingDisk(io.BytesIO):
    """A file whose second half cannot be read."""

    def __init__(self, data: bytes, failure: BaseException) -> None:
        super().__init__(data)
        self.failure, self.half = failure, len(data) // 2

    def read(self, count: int | None = -1) -> bytes:
        if self.tell() + (count or 0) > self.half:
            raise self.failure
        return super().read(count)


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_a_disk_that_fails_is_named(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A callback of libsndfile printed a traceback, and a file of unknown length seemed to end there."""
    data = write(tmp_path / name, np.random.default_rng(0).uniform(-1, 1, 200_000)).read_bytes()
    file = FailingDisk(data, OSError(errno.EIO, "Input/output error"))
    assert reason(file) == "stream: cannot be read: Input/output error"
    assert capfd.readouterr().err == ""


def test_control_c_while_a_file_is_read_ends_the_reading(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The callback of libsndfile printed the interrupt, the file was called damaged, and the command went on."""
    data = write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 200_000)).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        load(FailingDisk(data, KeyboardInterrupt()))
    assert capfd.readouterr().err == ""


def test_a_full_temporary_folder_is_no_fault_of_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error once read "standard input: No space left on device"."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert reason(Pipe(WAV)) == "stream: cannot be copied to a temporary file: No space left on device"
