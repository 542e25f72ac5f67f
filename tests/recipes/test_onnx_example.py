"""The onnxruntime example: without PyTorch or Spellstream, it gives Spellstream's transcripts."""

from __future__ import annotations

import itertools
import runpy
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch

from asr import checkpoint, exporting
from asr.archive import manifest
from asr.audio import load
from asr.search.greedy import greedy
from asr.text.tokenizer import BLANK
from tests.support.ctc_paths import VOCAB, collapse, random_log_probs
from tests.support.small_model import small_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# Simulates an environment without them.
ABSENT = ("torch", "torchaudio", "asr", "streaming", "sentencepiece", "onnx", "safetensors", "av", "soxr")
RUN = f"""
import runpy, sys
sys.modules |= dict.fromkeys({ABSENT}, None)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def script(repository_root: Path) -> Path:
    return repository_root / "recipes" / "examples" / "onnx_transcribe.py"


@pytest.fixture
def example(script: Path) -> dict[str, Any]:
    return runpy.run_path(str(script))


def said(script: Path, graphs: Path, recordings: list[Path], *options: str) -> list[str]:
    """Run the example; returns the lines that it prints."""
    command = [sys.executable, "-c", RUN, script, graphs, *recordings, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def ours(model: str | Path, recordings: list[Path]) -> Iterator[str]:
    """Spellstream's greedy transcript."""
    network, tokenizer, _ = checkpoint.load(model)
    for path in recordings:
        waveform = load(path)[None]
        with torch.inference_mode():
            encoded = network.encode(waveform, torch.tensor([waveform.shape[1]]))
        yield tokenizer.decode(greedy(network, encoded, network.config.search)[0].tokens)


def test_without_torch_it_says_what_our_greedy_search_says(script: Path, tmp_path: Path, repository_root: Path) -> None:
    model, recordings = small_model(tmp_path / "model"), [repository_root / "recipes" / "sample.flac"]
    waveform, rate = soundfile.read(recordings[0], dtype="float32")
    for number, samples in enumerate((513, 9_000, 30_001)):
        recordings.append(tmp_path / f"{number}.wav")
        soundfile.write(recordings[-1], waveform[9_000 : 9_000 + samples], rate, "FLOAT")
    exporting.export(model, tmp_path / "graphs")
    lines = said(script, tmp_path / "graphs", recordings)
    assert lines == list(ours(model, recordings))
    assert len(set(lines)) > 2

    soundfile.write(tmp_path / "short.wav", waveform[:100], rate)
    spelled = said(script, tmp_path / "graphs", [tmp_path / "short.wav", recordings[0]], "--search", "ctc")
    assert spelled[0] == ""
    assert spelled[1]


@dataclass
class Heard:
    """Stub graphs whose CTC head gives these log-probabilities `(1, T, V)`."""

    log_probs: np.ndarray[Any, np.dtype[Any]]
    facts: ClassVar = {"tokens": {"blank": BLANK}}

    def __call__(self, name: str, **_: object) -> list[np.ndarray[Any, np.dtype[Any]]]:
        assert name == "ctc"
        return [self.log_probs]


def test_the_ctc_search_finds_the_text_of_most_probability(example: dict[str, Any]) -> None:
    """The example's CTC search finds the most probable text by the sum over all paths."""
    search: Callable[..., tuple[int, ...]] = example["ctc_prefixes"]
    for seed in range(30):
        log_probs = random_log_probs(5, seed)[0].double().numpy()
        total: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
        for path in itertools.product(range(VOCAB), repeat=5):
            text = tuple(collapse(list(path)))
            total[text] = np.logaddexp(total[text], sum(log_probs[frame, token] for frame, token in enumerate(path)))
        found = search(Heard(log_probs[None]), None, beam_size=200, least=-np.inf)
        assert found == max(total, key=total.__getitem__)


def test_a_phrase_that_is_said_over_and_over_ends_the_text(example: dict[str, Any]) -> None:
    repeats = example["repeats"]
    assert not repeats([5] * 4, 4)
    assert repeats([5] * 5, 4)
    assert not repeats([5, 6] * 4, 4)
    assert repeats([9, *[5, 6] * 5], 4)
    assert not repeats(list(range(4, 30)), 4)


@pytest.mark.slow
def test_the_shipped_model_says_the_same(script: Path, speech_dir: Path, tmp_path: Path) -> None:
    """With the shipped model, the example's greedy search equals ours on a hundred utterances of LibriSpeech."""
    exporting.export("default", tmp_path / "graphs")
    recordings = [Path(one.audio) for one in manifest.read(speech_dir / "dev.jsonl") if one.corpus == "dev-clean"][:100]
    lines, expected = said(script, tmp_path / "graphs", recordings), list(ours("default", recordings))
    equal = sum(one == other for one, other in zip(lines, expected, strict=True))
    print(f"{equal} of {len(expected)} equal")
    assert equal >= 0.99 * len(expected)
