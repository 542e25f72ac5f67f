"""Capture: a microphone is opened with settings that it accepts, and all of its audio arrives."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import torch

import streaming.sources.capture
from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError, ConfigError, DeviceError, SourceError
from streaming.sources import Microphone, find_device
from streaming.sources.base import SILENCE_DBFS
from streaming.sources.devices import devices
from tests.support.fake_sounddevice import MICROPHONES, UNAVAILABLE, FakeSounddevice
from tests.support.live_audio import cut, noise, whole


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [64, 882, None])
def test_a_capture_equals_the_whole_file(
    monkeypatch: pytest.MonkeyPatch, rate: int, channels: int, size: int | None
) -> None:
    """Promise 7: capture at the native rate, resampled, equals the whole file for any block size."""
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
    assert max(map(len, chunks)) <= SAMPLE_RATE // 2  # a backlog comes in moderate pieces
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
            system.inputs = [("USB", 1, 48_000)]  # with another number and rate

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
        assert len(system.streams) == 1  # no other device was opened meanwhile
    wake.set()


def test_a_device_that_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("USB", 2, 44_100)).install(monkeypatch).refuses = UNAVAILABLE
    with pytest.raises(DeviceError, match=r"'USB' cannot be opened at 44100 Hz, 2 channels: Device un[^;]*$"):
        Microphone()


@pytest.mark.parametrize(
    ("own", "accepts", "wanted", "opened"),
    [
        ((44_100, 2), {(44_100, 2), (48_000, 2)}, (None, None), (44_100, 2)),
        ((44_100, 1), {(48_000, 1)}, (None, None), (48_000, 1)),
        ((44_100, 1), {(44_100, 2), (48_000, 1)}, (None, None), (44_100, 2)),  # the device's own rate comes first
        ((44_100, 2), {(16_000, 1)}, (None, None), (16_000, 1)),
        ((96_000, 6), {(8_000, 2)}, (None, None), (8_000, 2)),
        ((0, 2), {(48_000, 2)}, (None, None), (48_000, 2)),
        ((math.nan, 2), {(44_100, 1)}, (None, None), (44_100, 1)),
        ((44_100, 2), None, (22_050, 1), (22_050, 1)),
        ((44_100, 2), {(44_100, 1)}, (None, 1), (44_100, 1)),
        ((44_100, 2), {(96_000, 1)}, (96_000, None), (96_000, 1)),
    ],
)
def test_a_device_is_opened_with_settings_that_it_accepts(
    monkeypatch: pytest.MonkeyPatch,
    own: tuple[float, int],
    accepts: set[tuple[int, int]] | None,
    wanted: tuple[int | None, int | None],
    opened: tuple[int, int],
) -> None:
    """Devices whose own rate or channel count was refused, or whose rate was 0, could not be used at all."""
    system = FakeSounddevice(("USB", own[1], own[0]), accepts=accepts).install(monkeypatch)
    told: list[str] = []
    values = noise(0.3, *opened)
    with Microphone(sample_rate=wanted[0], channels=wanted[1], notify=told.append) as source:
        assert source.capture_format == opened
        system.streams[0].send(values)
        source.stop()
        assert torch.allclose(whole(source), load(values, sample_rate=opened[0]), atol=1e-6)
    asked_for = [own_value if value is None else value for value, own_value in zip(wanted, own, strict=True)]
    assert len(told) == ((*asked_for,) != opened and own[0] != 0)
    if told:
        assert told[0].startswith("microphone 'USB' cannot be opened at ")
        assert told[0].endswith(f"; it is opened at {opened[0]} Hz, {opened[1]} channel{'s' * (opened[1] > 1)}")
        assert "\n" not in told[0]


def test_a_device_that_accepts_nothing_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of rate 0 failed with "capacity is 0: it must be positive"."""
    FakeSounddevice(("USB", 1, 0.0), accepts=set()).install(monkeypatch)
    for wanted, message in (
        ({}, r"^microphone 'USB' reports a sample rate of 0 Hz and cannot be opened at 48000 Hz, 1 channel: Invalid "),
        ({}, r"; all of 48000, 44100, 16000, 32000, 8000 Hz and 1, 2 channels were tried$"),
        ({"sample_rate": 22_050, "channels": 1}, r"^microphone 'USB' cannot be opened at 22050 Hz, 1 channel: [^;]*$"),
    ):
        with pytest.raises(DeviceError, match=message):
            Microphone(**wanted)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="sample rate is 5 Hz"):
        Microphone(sample_rate=5)
    with pytest.raises(ConfigError, match="channels is 0"):
        Microphone(channels=0)
    assert str(devices()[0]).endswith("1 channel, rate unknown)")


def test_the_only_microphone_needs_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSounddevice(("HDMI", 0, 48_000), ("USB", 1, 48_000), default=-1).install(monkeypatch)
    assert find_device().name == "USB"


@pytest.mark.parametrize("size", [160, 999, None])
def test_channels_that_cancel_are_heard(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    """A balanced line in a stereo socket gives opposite-phase channels, whose mean was silence."""
    system = FakeSounddevice(("line in", 2, 48_000)).install(monkeypatch)
    values = noise(0.5, 48_000) * np.float32([[1, -1]])
    with Microphone() as source:
        for block in cut(values, size):
            system.streams[0].send(block)
        source.stop()
        heard = whole(source)
    expected = load(np.ascontiguousarray(values[:, 0]), sample_rate=48_000)
    assert heard.shape == expected.shape
    assert torch.allclose(heard[1_000:], expected[1_000:], atol=1e-4)  # after the fade from the mean to one channel
