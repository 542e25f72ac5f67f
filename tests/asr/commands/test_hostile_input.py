"""Bad input to the command, with a real but untrained model: one clear line names the file."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.commands.main import main

SECOND = 16_000
SENTENCES = ("the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "it isn't so")


def noise(seconds: float, rate: int = SECOND, channels: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng(0)
    return generator.normal(0, 0.1, (int(seconds * rate), channels)).astype(np.float32)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny untrained model."""
    import torch

    from asr import checkpoint
    from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, FeatureConfig, ModelConfig, SearchConfig
    from asr.model.las import Model
    from asr.text.tokenizer import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.train(SENTENCES * 3, 40, "char")
    config = ModelConfig(
        vocab_size=len(tokenizer),
        features=FeatureConfig(n_mels=40),
        encoder=EncoderConfig(joins=(2, 2), hidden_size=16),
        attention=AttentionConfig(size=16, location_channels=2, location_width=11),
        decoder=DecoderConfig(hidden_size=16, embedding_size=8),
        search=SearchConfig(beam_size=2),
    )
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder, Model(config), tokenizer)
    return folder


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.wav"
    soundfile.write(path, noise(0.5), SECOND)
    return path


@pytest.fixture
def command(model: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; messages that libraries write to the real standard error are captured too."""

    def call(*arguments: object, model: Path | str = model) -> tuple[int, str, str]:
        status = main([*map(str, arguments), "--model", str(model)])
        return status, *capfd.readouterr()

    return call


Command = Callable[..., tuple[int, str, str]]


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("this is no audio at all\n" * 50)


def truncated_flac(path: Path) -> None:
    soundfile.write(path, noise(3.0), SECOND)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_header(path: Path) -> None:
    soundfile.write(path, noise(1.0), SECOND)
    path.write_bytes(path.read_bytes()[:20])


def nan(path: Path) -> None:
    samples = noise(1.0)
    samples[SECOND // 2] = np.nan
    soundfile.write(path, samples, SECOND, subtype="FLOAT")


def no_samples(path: Path) -> None:
    soundfile.write(path, noise(0.0), SECOND)


def directory(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    """A missing file."""


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "empty": ("a.wav", empty, "is empty"),
    "text": ("a.wav", text, "is not audio"),
    "truncated flac": ("a.flac", truncated_flac, "is damaged or cut short"),
    "truncated header": ("a.wav", truncated_header, ""),
    "NaN": ("a.wav", nan, "the sample at 0.500 s is NaN"),
    "no samples": ("a.wav", no_samples, "holds no samples"),
    "directory": ("a.wav", directory, "no audio file in this folder"),
    "missing": ("a.wav", missing, "no such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_and_the_rest_is_done(kind: str, tmp_path: Path, good: Path, command: Command) -> None:
    name, make, reason = BAD[kind]
    (tmp_path / "bad").mkdir()
    bad = tmp_path / "bad" / name
    make(bad)
    status, out, err = command("transcribe", bad)
    assert (status, out) == (1, "")
    assert err.startswith(f"spellstream: {bad}: {reason}")
    assert err.count("\n") == 1

    status, out, err = command("transcribe", bad, good, "--output-dir", tmp_path / "out")
    assert (status, out) == (1, "")
    assert err.splitlines()[0].startswith(f"spellstream: {bad}: {reason}")
    assert err.splitlines()[1:] == ["spellstream: 1 of 2 failed"]
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["good.txt"]


@pytest.mark.parametrize("kind", ["truncated wav", "truncated flac"])
def test_what_was_said_before_the_damage_is_kept_if_asked_for(kind: str, tmp_path: Path, command: Command) -> None:
    """A recording of eight hours, damaged in its last second, gave no text at all.

    Later the row of a kept text looked like a complete transcript, so --resume skipped the file.
    """
    if kind == "truncated wav":
        bad = tmp_path / "a.wav"
        soundfile.write(bad, noise(3.0), SECOND)
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    else:
        bad = tmp_path / "a.flac"
        truncated_flac(bad)
    assert command("transcribe", bad, "--format", "json")[:2] == (1, "")
    status, out, err = command("transcribe", bad, "--format", "json", "--keep-damaged")
    assert status == 1
    assert 1.0 < json.loads(out)["duration_seconds"] < 2.0
    assert err.startswith(f"spellstream: {bad}: is damaged or cut short")
    assert err.count("\n") == 1
    rows = tmp_path / "rows.jsonl"
    for _ in range(2):
        assert command("transcribe", bad, "--output", rows, "--keep-damaged", "--resume")[0] == 1
        (row,) = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
        assert row["error"].startswith("is damaged or cut short")
        assert row["text"] is not None


def test_an_unreadable_file(tmp_path: Path, good: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "closed.wav"
    shutil.copy(good, bad)
    bad.chmod(0)
    if os.access(bad, os.R_OK):  # root may read everything, so simulate the refusal
        path_open = Path.open

        def refusing(path: Path, *arguments: Any, **options: Any) -> Any:
            if path == bad:
                raise PermissionError(13, "Permission denied", str(path))
            return path_open(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", refusing)
        monkeypatch.setattr(builtins, "open", refusing)
    status, out, err = command("transcribe", bad, good)
    assert status == 1
    assert out.startswith(f"{good}:")
    assert err == f"spellstream: {bad}: permission denied\nspellstream: 1 of 2 failed\n"


@pytest.mark.parametrize("seconds", [0.01, 1 / SECOND])
def test_a_hundredth_of_a_second(seconds: float, tmp_path: Path, command: Command) -> None:
    """A recording too short for a word is no failure: its transcript is empty."""
    path = tmp_path / "short.wav"
    soundfile.write(path, noise(seconds), SECOND)
    status, out, err = command("transcribe", path, "--format", "json")
    assert (status, err) == (0, "")
    assert json.loads(out)["segments"] == []


def test_eight_channels_at_96_khz(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "wide.wav"
    soundfile.write(path, noise(1.0, 96_000, 8), 96_000)
    status, out, err = command("transcribe", path, "--format", "json", "--nbest", 2)
    assert (status, err) == (0, "")
    assert json.loads(out)["duration_seconds"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("extra", [[], ["--beam-size", "1"], ["--format", "srt"], ["--dtype", "bfloat16"]])
def test_a_good_file(extra: list[str], good: Path, command: Command) -> None:
    status, _, err = command("transcribe", good, *extra)
    assert (status, err) == (0, "")


def test_info_knows_the_model(model: Path, command: Command) -> None:
    status, out, err = command("info", "--json")
    assert (status, err) == (0, "")
    facts = json.loads(out)["model"]
    assert (facts["name"], facts["frame_ms"], facts["chunk_ms"]) == (str(model), 40.0, 360)
    assert facts["parameters"] > 1000
    assert facts["disk_bytes"] > 4 * facts["parameters"]
    assert facts["lookahead_ms"] >= 120


def test_unknown_model(good: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPELLSTREAM_HOME", str(tmp_path))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").touch()
    status, out, err = command("transcribe", good, model="no-such-model")
    assert (status, out) == (1, "")
    assert err.startswith(
        "spellstream: no-such-model: neither a checkpoint folder nor the name of a model (known: default, mine)"
    )
    assert err.count("\n") == 1


def wrong_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["hidden_size"] = 24
    (folder / "config.json").write_text(json.dumps(config))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"tokens")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (wrong_shape, "model.safetensors: the tensor "),
        (no_weights, "model.safetensors: "),
        (cut_weights, "model.safetensors: "),
        (no_json, "config.json: "),
        (no_tokenizer, "tokenizer.model: "),
        (no_config, "no config.json"),
    ],
)
def test_a_broken_checkpoint(
    breaks: Callable[[Path], None], says: str, model: Path, tmp_path: Path, good: Path, command: Command
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    breaks(broken)
    for arguments in (["transcribe", good], ["info"]):
        status, out, err = command(*arguments, model=broken)
        assert (status, out) == (1, "")
        assert err.startswith(f"spellstream: {broken}")
        assert says in err
        assert err.count("\n") == 1


def test_a_model_that_is_a_file(good: Path, command: Command) -> None:
    status, out, err = command("transcribe", good, model=good)
    assert (status, out) == (1, "")
    assert err.startswith(f"spellstream: {good}: ")
    assert err.count("\n") == 1


def test_evaluate_with_bad_audio(tmp_path: Path, good: Path, command: Command) -> None:
    empty(tmp_path / "bad.wav")
    rows = [{"id": name, "audio": f"{name}.wav", "duration": 0.5, "text": "a fox"} for name in ("good", "bad")]
    manifest = tmp_path / "test.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = command("evaluate", manifest)
    assert status == 1
    assert "total" in out
    assert err.splitlines()[0].startswith(f"spellstream: bad: {tmp_path}/bad.wav: is empty")
    assert err.splitlines()[1:] == ["spellstream: 1 of 2 failed"]


def test_a_broken_manifest(tmp_path: Path, command: Command) -> None:
    manifest = tmp_path / "test.jsonl"
    manifest.write_text('{"id": "a"}\n')
    status, out, err = command("evaluate", manifest)
    assert (status, out) == (1, "")
    assert err == f"spellstream: {manifest}:1: no audio; expected a field named audio or audio_filepath\n"


def test_as_a_process(tmp_path: Path, good: Path, model: Path, repository_root: Path) -> None:
    """The same with the command in its own process: real standard streams and exit status."""
    text(tmp_path / "bad.wav")
    command = [
        sys.executable,
        "-m",
        "asr",
        "transcribe",
        "-",
        str(tmp_path / "bad.wav"),
        "--model",
        str(model),
    ]
    with good.open("rb") as sound:
        done = subprocess.run(command, cwd=repository_root, stdin=sound, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("-:")
    assert done.stderr.splitlines() == [
        f"spellstream: loading the model {model}",
        f"spellstream: {tmp_path}/bad.wav: is not audio: it looks like text",
        "spellstream: 1 of 2 failed",
    ]
