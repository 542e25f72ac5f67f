"""Whatever the source, the recogniser gets 16 kHz mono, all of it, and is told when it cannot."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import streaming.sources.capture
from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError, ConfigError, DependencyError, DeviceError, SourceError
from streaming.sources import FileReplay, Microphone, StandardInput, find_device
from streaming.sources.base import SILENCE_DBFS, AudioSource
from streaming.sources.devices import devices
from tests.support.fake_sounddevice import FakeSounddevice

MICROPHONES = (
    ("HDA Intel: ALC257 Analog (hw:0,0)", 2, 44_100),
    ("HDMI 0 (hw:0,3)", 0, 44_100),
    ("USB Audio: Rode NT (hw:1,0)", 1, 48_000),
    ("USB Audio: Webcam (hw:2,0)", 2, 32_000),
    ("pulse", 32, 44_100),
)


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels)).astype(np.float32)


def cut(values: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
    """Cut into blocks of one size, or of random ones."""
    generator, start = np.random.default_rng(1), 0
    while start < len(values):
        count = size or int(generator.integers(1, 3000))
        yield values[start : start + count]
        start += count


def whole(source: AudioSource) -> torch.Tensor:
    chunks = list(source)
    assert all(len(chunk) and chunk.dtype == torch.float32 and chunk.ndim == 1 for chunk in chunks)
    return torch.cat(chunks)


# --- devices ----------------------------------------------------------------------------------------------------------


def test_devices_are_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(*MICROPHONES, default=2).install(monkeypatch)
    found = devices()
    assert [device.index for device in found] == [0, 2, 3, 4]
    assert [device.is_default for device in found] == [False, True, False, False]
    assert str(found[1]) == "2: USB Audio: Rode NT (hw:1,0) (ALSA, 1 channel, 48000 Hz)"


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(None, 2), (0, 0), (3, 3), ("3", 3), ("webcam", 3), (" Rode ", 2), ("PULSE", 4), ("ALC257", 0)],
)
def test_a_device_is_found(monkeypatch: pytest.MonkeyPatch, wanted: int | str | None, index: int) -> None:
    FakeSounddevice(*MICROPHONES, default=2).install(monkeypatch)
    assert find_device(wanted).index == index


def test_the_exact_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("pulse monitor", 2, 48_000), ("pulse", 2, 48_000)).install(monkeypatch)
    assert find_device("pulse").index == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("usb", "more than one microphone is called 'usb': 2: USB Audio: Rode NT .*; 3: USB Audio: Webcam [^;]*$"),
        ("Yeti", "no microphone is called 'Yeti'; there are: 0: HDA .*; 4: pulse"),
        (1, "no microphone has the number 1; there are: 0: HDA"),  # HDMI is an output
        ("17", "no microphone has the number 17; there are: 0: HDA"),
        (None, "the system names no default microphone: choose one of: 0: HDA"),
    ],
)
def test_no_device_is_guessed(monkeypatch: pytest.MonkeyPatch, wanted: int | str | None, message: str) -> None:
    FakeSounddevice(*MICROPHONES, default=-1).install(monkeypatch)
    with pytest.raises(DeviceError, match=message):
        find_device(wanted)


def test_no_device_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("HDMI", 0, 48_000)).install(monkeypatch)
    assert devices() == []
    with pytest.raises(DeviceError, match="there is no microphone"):
        Microphone()


def test_a_missing_portaudio_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    for needs_it in (devices, find_device, Microphone):
        with pytest.raises(DependencyError, match="apt install libportaudio2"):
            needs_it()


# --- the microphone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [64, 882, None])
def test_a_capture_equals_the_whole_file(
    monkeypatch: pytest.MonkeyPatch, rate: int, channels: int, size: int | None
) -> None:
    """Promise 7: the native rate, resampled by us, whatever the blocks that the device brings."""
    system = FakeSounddevice(("microphone", channels, rate)).install(monkeypatch)
    values = noise(0.7, rate, channels)
    with Microphone() as source:
        stream = system.streams[0]
        assert stream.options["samplerate"] == rate
        assert stream.options["channels"] == channels
        assert stream.options["dtype"] == "float32"

        def play() -> None:
            for number, block in enumerate(cut(values, size)):
                stream.send(block)
                if number % 10 == 0:
                    time.sleep(0.001)  # the reader's turn
            source.stop()

        player = threading.Thread(target=play)
        player.start()
        heard = whole(source)
        player.join()
    assert stream.state == "closed"
    assert torch.allclose(heard, load(values, sample_rate=rate), atol=1e-6)
    assert source.dropped_seconds == 0


def test_many_channels_are_not_all_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(*MICROPHONES).install(monkeypatch)
    with Microphone("pulse"):
        assert system.streams[0].options["channels"] == 2


def test_late_reading_drops_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(("microphone", 1, 16_000)).install(monkeypatch)
    values = noise(3, 16_000)
    with Microphone(buffer_seconds=2) as source:
        for block in cut(values, 320):
            system.streams[0].send(block, overflow=len(block) == 1)
        system.streams[0].send(values[:160], overflow=True)
        assert source.dropped_seconds == pytest.approx(1.01)
        assert source.overflows == 1
        source.stop()
        chunks = list(source)
    assert max(map(len, chunks)) <= SAMPLE_RATE // 2  # what has piled up comes in moderate pieces
    assert torch.equal(torch.cat(chunks)[:-160], torch.from_numpy(values[-2 * SAMPLE_RATE + 160 :, 0]))
    assert source.dropped_seconds == pytest.approx(1.01)


def test_the_level_is_that_of_the_latest_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(("microphone", 1, 16_000)).install(monkeypatch)
    with Microphone() as source:
        assert source.level == SILENCE_DBFS
        chunks = iter(source)
        for amplitude, level in ((0.0, SILENCE_DBFS), (1.0, 0.0), (0.1, -20.0)):
            system.streams[0].send(np.full(320, amplitude))
            next(chunks)
            assert source.level == pytest.approx(level)
        system.streams[0].send(np.full(320, math.nan))
        with pytest.raises(AudioError, match=r"'microphone': a sample soon after 0\.060 s is NaN or infinite"):
            next(chunks)


def test_a_device_that_goes_away_is_an_error_after_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(("USB", 1, 44_100)).install(monkeypatch)
    values = noise(0.5, 44_100)
    heard = []
    with Microphone() as source:
        system.streams[0].send(values)
        system.streams[0].vanish()
        chunks = iter(source)
        with pytest.raises(SourceError, match=r"^microphone 'USB': has gone away"):
            heard += chunks  # a list keeps what it was given before the error
    assert torch.allclose(torch.cat(heard), load(values, sample_rate=44_100), atol=1e-6)
    assert system.streams[0].state == "closed"


def test_a_device_that_falls_silent_has_gone_away(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("USB", 1, 16_000)).install(monkeypatch)
    with Microphone(timeout_seconds=0.3) as source, pytest.raises(SourceError, match=r"has sent nothing for 0\.3 s"):
        list(source)


def test_a_device_that_comes_back_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(("built in", 2, 44_100), ("USB", 1, 16_000)).install(monkeypatch)
    values, told = noise(0.5, 16_000), []

    def plug_in() -> None:
        if system.refreshed == 3:
            system.inputs = [("USB", 1, 48_000)]  # as another number now, and at another rate

    with Microphone(1, reconnect=True, retry_seconds=0.1, notify=told.append) as source:
        system.streams[0].send(values)
        system.inputs.pop()
        system.on_refresh = plug_in
        chunks = iter(source)
        assert torch.equal(next(chunks), torch.from_numpy(values[:, 0]))
        system.streams[0].vanish()

        def speak_again() -> None:
            while len(system.streams) < 2:
                time.sleep(0.01)
            system.streams[1].send(noise(1, 48_000))

        speaker = threading.Thread(target=speak_again)
        speaker.start()
        assert len(next(chunks))
        speaker.join()
        assert source.device.sample_rate == 48_000
        assert 0.3 <= source.lost_seconds < 10
        assert told[0].startswith("microphone 'USB' has gone away (unplugged")
        assert told[1] == f"microphone 'USB' is back after {source.lost_seconds:.1f} s"
        assert len(told) == 2
        assert source.dropped_seconds == 0


def test_waiting_for_a_device_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSounddevice(("USB", 1, 16_000)).install(monkeypatch)
    with Microphone(reconnect=True, retry_seconds=60) as source:
        system.streams[0].vanish()
        threading.Timer(0.2, source.stop).start()
        assert list(source) == []
        assert 0.1 < source.lost_seconds < 10


def test_a_sound_system_that_hangs_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.sources.capture, "_STOP_SECONDS", 0.1)
    system = FakeSounddevice(("USB", 1, 16_000)).install(monkeypatch)
    wake = threading.Event()
    with Microphone(reconnect=True, retry_seconds=0.05, timeout_seconds=0.1) as source:
        first = system.streams[0]
        monkeypatch.setattr(first, "abort", wake.wait)
        threading.Timer(1.5, source.stop).start()
        assert list(source) == []
        assert len(system.streams) == 1  # no other was opened meanwhile
    wake.set()


def test_a_device_that_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("USB", 2, 44_100)).install(monkeypatch).refuses = "Device unavailable [PaErrorCode -9985]"
    with pytest.raises(DeviceError, match=r"'USB' cannot be opened at 44100 Hz, 2 channels: Device unavailable"):
        Microphone()


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_replayed_file_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.23, 44_100, 2), 44_100)
    with FileReplay(path, speed=None, chunk_ms=20) as source:
        chunks = list(source)
    assert {len(chunk) for chunk in chunks[:-1]} == {320}
    assert 0 < len(chunks[-1]) <= 320
    assert torch.equal(torch.cat(chunks), load(path))
    assert source.name == str(path)


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_file_is_replayed_in_time(tmp_path: Path, speed: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0, SAMPLE_RATE), SAMPLE_RATE)
    source, started, samples = FileReplay(path, speed=speed), time.monotonic(), 0
    for chunk in source:
        samples += len(chunk)
        assert time.monotonic() - started >= samples / SAMPLE_RATE / speed - 0.001
    assert time.monotonic() - started < 1 / speed + 1


def test_a_replay_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(30.0, SAMPLE_RATE), SAMPLE_RATE)
    with FileReplay(path, chunk_ms=20_000) as source:
        threading.Timer(0.1, source.stop).start()
        assert list(source) == []


def test_a_replay_checks_its_settings(tmp_path: Path) -> None:
    for options in ({"speed": 0.0}, {"speed": -1.0}, {"speed": math.inf}, {"chunk_ms": 0}):
        with pytest.raises(ConfigError):
            FileReplay(tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="no such file"):
        list(FileReplay(tmp_path / "none.wav"))


# --- standard input ---------------------------------------------------------------------------------------------------


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written to this file descriptor comes on standard input."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield writer
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(writer)


def send(writer: int, data: bytes, size: int) -> threading.Thread:
    def run() -> None:
        for start in range(0, len(data), size):
            os.write(writer, data[start : start + size])
        os.close(writer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "size"),
    [("s16le", 16_000, 1, 1), ("s16le", 44_100, 2, 333), ("f32le", 48_000, 2, 777), ("f32le", 8_000, 1, 99_999)],
)
def test_raw_samples_from_standard_input(feed: int, encoding: str, rate: int, channels: int, size: int) -> None:
    values = noise(0.05 if size == 1 else 0.5, rate, channels)
    stored = np.round(values * 32767).astype("<i2") if encoding == "s16le" else values
    writer = send(feed, stored.tobytes() + b"\1", size)  # half a sample at the end is none
    with StandardInput(rate, channels, encoding) as source:  # type: ignore[arg-type]
        heard = whole(source)
    writer.join()
    assert torch.allclose(heard, load(stored, sample_rate=rate), atol=1e-6)


def test_standard_input_does_not_wait_for_more(feed: int) -> None:
    with StandardInput() as source:
        chunks = iter(source)
        for _ in range(3):
            os.write(feed, b"\0\1" * 10)
            assert len(next(chunks)) == 10
        threading.Timer(0.1, source.stop).start()
        assert list(chunks) == []
    source.close()


def test_what_is_in_the_pipe_at_a_stop_is_still_delivered(feed: int) -> None:
    """Up to two seconds of speech were lost at Ctrl-C where the recogniser was behind."""
    with StandardInput() as source:
        os.write(feed, b"\0\1" * 30_000)
        source.stop()
        assert len(whole(source)) == 30_000


def test_a_stop_ends_an_input_that_never_does(feed: int) -> None:
    def zeros() -> None:
        with contextlib.suppress(OSError):
            while True:
                os.write(feed, bytes(4096))

    writer = threading.Thread(target=zeros, daemon=True)
    writer.start()
    with StandardInput() as source:
        chunks = iter(source)
        next(chunks)
        source.stop()
        assert sum(map(len, chunks)) <= 2 * 65_536
    sys.stdin.close()
    writer.join(10)


def test_an_empty_standard_input_is_an_error(feed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(feed)
    with StandardInput() as source, pytest.raises(AudioError, match="standard input: is empty"):
        list(source)
    with pytest.raises(AudioError, match="sample rate is 5 Hz"):
        StandardInput(5)
    with pytest.raises(ConfigError, match="encoding is 'mp3'"):
        StandardInput(encoding="mp3")  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AudioError, match="standard input: is closed"):
        StandardInput()
