"""Real capture: `Microphone` gives the audio that is played into a virtual microphone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT

import jiwer
import numpy as np
import pytest
import soundfile
import torch

import asr
import streaming
from asr.audio import SAMPLE_RATE, load
from asr.errors import SourceError
from streaming.sources import Microphone
from streaming.sources.devices import devices, refresh
from tests.support.listening import listening
from tests.support.pulse import VirtualMicrophone, virtual_microphone

pytestmark = pytest.mark.mic


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as running:
        for name, value in running.variables.items():
            monkeypatch.setenv(name, value)
        refresh()
        yield running
    monkeypatch.undo()
    refresh()


def signal(seconds: float = 2.0, rate: int = 48_000) -> np.ndarray:
    """A chirp from 200 Hz to 5 kHz over a steady tone, which correlates with itself at one position only."""
    time_axis = np.arange(round(seconds * rate)) / rate
    chirp = np.sin(2 * np.pi * (200 + 2400 / seconds * time_axis) * time_axis)
    return np.float32(0.3 * chirp + 0.1 * np.sin(2 * np.pi * 440 * time_axis))


def similarity(heard: torch.Tensor, played: torch.Tensor) -> float:
    """The maximum of the normalised cross-correlation with `played`: 1 if it was recorded unchanged.

    The position is found to an eighth of a sample, since the server's clock is not ours.
    """
    size, finer = len(heard) + len(played), 8
    product = torch.fft.rfft(heard, size) * torch.fft.rfft(played, size).conj()
    correlation = finer * torch.fft.irfft(product, finer * size)[: finer * len(heard)]
    at = int(correlation.argmax())
    found = heard[at // finer :][: len(played)]
    return float(correlation[at] / (found.norm() * played.norm()))


def test_what_is_played_is_heard(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    path = tmp_path / "signal.wav"
    soundfile.write(path, np.stack([signal(), signal()], axis=1), 48_000)
    assert microphone.device in [device.name for device in devices()]

    with Microphone(microphone.device) as source:
        assert source.device.sample_rate != SAMPLE_RATE
        chunks = iter(source)
        heard = [next(chunks)]
        assert source.level < -100

        def play() -> None:
            microphone.play(path)
            time.sleep(0.5)
            source.stop()

        player = threading.Thread(target=play)
        player.start()
        levels = []
        for chunk in chunks:
            heard.append(chunk)
            levels.append(source.level)
        player.join()
        assert source.dropped_seconds == 0

    assert all(chunk.dtype == torch.float32 and chunk.ndim == 1 for chunk in heard)
    loud = [level for level in levels if level > -60]
    assert np.median(loud) == pytest.approx(-13, abs=2)  # 0.3 and 0.1 are the peaks of the two sines
    whole = torch.cat(heard)
    assert similarity(whole, load(path)) > 0.99
    assert similarity(whole[::2], load(path)) < 0.5  # the measure does detect differences


def record(microphone: VirtualMicrophone, path: Path, **settings: int) -> torch.Tensor:
    """The audio captured while a file is played."""
    with Microphone(microphone.device, **settings) as source:
        chunks = iter(source)
        heard = [next(chunks)]
        if settings:
            assert source.capture_format == (settings["sample_rate"], settings["channels"])

        def play() -> None:
            microphone.play(path)
            time.sleep(0.5)
            source.stop()

        player = threading.Thread(target=play)
        player.start()
        heard += chunks
        player.join()
    return torch.cat(heard)


def test_the_rate_and_channels_of_the_user(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    path = tmp_path / "signal.wav"
    soundfile.write(path, np.stack([signal(), signal()], axis=1), 48_000)
    for settings in ({"sample_rate": 22_050, "channels": 1}, {"sample_rate": 96_000, "channels": 4}):
        assert similarity(record(microphone, path, **settings), load(path)) > 0.99


def test_phase_inverted_stereo_is_heard(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    """A balanced line in a stereo socket gave silence: the mean of a channel and its inverse."""
    path = tmp_path / "inverted.wav"
    soundfile.write(path, np.stack([signal(), -signal()], axis=1), 48_000)
    assert similarity(record(microphone, path), torch.from_numpy(signal(rate=16_000))) > 0.95


def test_the_sound_server_ends_and_comes_back(microphone: VirtualMicrophone) -> None:
    with Microphone(microphone.device) as source:
        chunks = iter(source)
        next(chunks)
        microphone.kill()
        with pytest.raises(SourceError, match="microphone 'pulse': has gone away"):
            list(chunks)
    microphone.start()

    told: list[str] = []
    with Microphone(microphone.device, reconnect=True, retry_seconds=0.2, notify=told.append) as source:
        chunks = iter(source)
        next(chunks)
        microphone.kill()
        restart = threading.Timer(1, microphone.start)
        restart.start()
        while len(told) < 2:
            next(chunks)
        restart.join()
        assert len(next(chunks))
        assert "has gone away" in told[0]
        assert "is back after" in told[1]
        assert source.lost_seconds > 0.5


def test_the_command_writes_what_is_said(
    microphone: VirtualMicrophone, speech_dir: Path, repository_root: Path, tmp_path: Path
) -> None:
    """`spellstream listen` on a virtual microphone transcribes a played recording of the test set."""
    if not (repository_root / "asr/pretrained/default/model.safetensors").is_file():
        pytest.skip("no model is shipped yet: asr/pretrained/default holds no weights")
    rows = [json.loads(line) for line in (speech_dir / "test.jsonl").read_text().splitlines()]
    row = max((row for row in rows if row["corpus"] == "an4"), key=lambda row: float(row["duration"]))
    path, saved = tmp_path / "talk.wav", tmp_path / "saved.wav"
    soundfile.write(path, load(speech_dir / row["audio"]).numpy(), SAMPLE_RATE)

    arguments = ("--input-device", microphone.device, "--save", saved, "--style", "spoken")
    with listening(*arguments, environment=microphone.environment) as process:
        time.sleep(1.5)  # the sink's initial burst of silence
        microphone.play(path)
        time.sleep(0.5)
        process.send_signal(SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "median latency" in err
    assert "nothing dropped" in err
    assert similarity(load(saved), load(path)) > 0.95

    recogniser = asr.load("default")
    replay = streaming.listen(streaming.FileReplay(saved, speed=None), model=recogniser)
    replayed = [event.segment.spoken for event in replay if isinstance(event, streaming.Final)]
    assert jiwer.wer(" ".join(replayed), " ".join(out.split())) < 0.2, f"live: {out}replayed: {replayed}"
    assert jiwer.wer(row["text"], " ".join(out.split())) < 0.5, out
