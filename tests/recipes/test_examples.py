"""Every example in recipes/examples runs, and does what its docstring says."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

import streaming
from asr.audio import load
from asr.text.normalise import normalise
from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from tests.support.pulse import VirtualMicrophone, virtual_microphone
from tests.support.serving import Running, running

SAID = "the old man stood at the window and watched the boats come home before the storm"


def errors(written: str) -> float:
    """The word error rate, ignoring case and punctuation."""
    return jiwer.wer(SAID, normalise(written) or "")


@pytest.fixture
def examples(repository_root: Path) -> Path:
    return repository_root / "recipes" / "examples"


@pytest.fixture
def sample(repository_root: Path) -> Path:
    return repository_root / "recipes" / "sample.flac"


@pytest.fixture(scope="module")
def server(shipped_engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(limits=ServerLimits(load_share=100)), shipped_engine) as started:
        yield started


def ran(root: Path, *command: object, **environment: str) -> str:
    """Run an example, which must succeed; returns its standard output."""
    paths = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"PATH": path} | paths | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_captions(
    examples: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a file in place of the microphone, partials are overwritten, and each final stays on its own line."""
    listen = streaming.listen
    monkeypatch.setattr(streaming, "listen", lambda: listen(streaming.FileReplay(sample, speed=None)))
    runpy.run_path(str(examples / "captions.py"), run_name="__main__")
    *partials, final = capsys.readouterr().out.removesuffix("\n").split("\r\033[K")[1:]
    assert errors(final) < 0.2
    assert len(partials) > 3
    assert partials[0] != final


@pytest.mark.mic
def test_captions_of_a_microphone(repository_root: Path, examples: Path, sample: Path) -> None:
    with virtual_microphone() as microphone:
        out = heard_by(microphone, repository_root, examples / "captions.py", sample)
    assert errors(out.rpartition("\033[K")[2].strip()) < 0.3, out


def listeners(microphone: VirtualMicrophone) -> str:
    """The programs that have the microphone open, one per line."""
    command = ["pactl", "list", "short", "source-outputs"]
    return subprocess.run(command, env=microphone.environment, capture_output=True, text=True).stdout.strip()


def heard_by(microphone: VirtualMicrophone, root: Path, script: Path, sound: Path) -> str:
    """Output of a script that listens to the microphone while a recording is played, then gets Ctrl-C."""
    environment = {**microphone.environment, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not listeners(microphone) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.5)  # the sink's initial burst of silence
        microphone.play(sound)
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.decode()


def test_a_folder_to_subtitles(repository_root: Path, examples: Path, sample: Path, tmp_path: Path) -> None:
    """A broken recording is reported, the others get subtitles, and a second run does nothing."""
    shutil.copy(sample, tmp_path / "talk.flac")
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    out = ran(repository_root, sys.executable, examples / "subtitles.py", tmp_path)
    assert f"{tmp_path / 'talk.srt'}" in out.splitlines()
    assert out.count("broken.wav") == 1
    assert "stood at" in (tmp_path / "talk.srt").read_text(encoding="utf-8").lower()
    again = ran(repository_root, sys.executable, examples / "subtitles.py", tmp_path)
    assert "talk.srt" not in again


def test_a_websocket_client(
    repository_root: Path, examples: Path, sample: Path, tmp_path: Path, server: Running
) -> None:
    soundfile.write(tmp_path / "talk.wav", load(sample).numpy(), 16_000, "PCM_16")
    out = ran(
        repository_root, sys.executable, examples / "websocket_client.py", tmp_path / "talk.wav", server.ws_url, 4
    )
    assert errors(out.rpartition("\033[K")[2].strip()) < 0.2, out


def test_an_openai_client(repository_root: Path, examples: Path, sample: Path, server: Running) -> None:
    pytest.importorskip("openai")
    out = ran(repository_root, sys.executable, examples / "openai_client.py", sample, f"{server.url}/v1")
    words = [line.split() for line in out.splitlines()]
    assert errors(" ".join(word for *_, word in words)) < 0.2
    assert all(float(start) <= float(end) for start, end, _ in words)


@pytest.mark.slow
def test_fine_tuning(repository_root: Path, examples: Path, sample: Path, tmp_path: Path) -> None:
    """Fine-tuning on ten recordings for two steps gives a model, and scores of it and of the initial model."""
    waveform, own = load(sample).numpy(), tmp_path / "own"
    own.mkdir()
    for number in range(10):
        soundfile.write(own / f"{number}.wav", np.roll(waveform, -100 * number), 16_000)
        (own / f"{number}.txt").write_text(SAID + "\n")
    settings = ("optimiser.max_steps=2", "optimiser.decay_steps=1", "validate_every=2", "data.workers=0")
    out = ran(repository_root, "bash", examples / "finetune.sh", own, tmp_path / "work", *settings)
    assert "WER on dev" in out
    assert (tmp_path / "work/run/best/model.safetensors").exists()


def test_the_notebook_plots_attention(
    repository_root: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The notebook's cells run in order, and plot the attention of every token."""
    monkeypatch.chdir(examples)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((examples / "attention.ipynb").read_text(encoding="utf-8"))
    values: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "commit the notebook without outputs"
            exec("".join(cell["source"]), values)
    (picture,) = values["axes"].images  # type: ignore[attr-defined]
    weights = np.asarray(picture.get_array())
    assert len(weights) == len(values["tokens"])  # type: ignore[arg-type]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-3)
    assert "bits" in capsys.readouterr().out
