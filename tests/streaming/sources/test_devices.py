"""The list of microphones, and the choice of one by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asr.errors import DependencyError, DeviceError
from streaming.sources import Microphone, find_device
from streaming.sources.devices import devices
from tests.support.fake_sounddevice import MICROPHONES, FakeSounddevice


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
