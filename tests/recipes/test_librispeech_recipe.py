"""The LibriSpeech recipe: every stage at a tiny scale, and messages on wrong use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.archive import manifest
from recipes.librispeech import manifest as part_manifest
from recipes.librispeech import results
from tests.support.librispeech import PARTS, make_librispeech

RUN = "recipes/librispeech/run.sh"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with `python` and `spellstream` of the current environment."""
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(root / RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_every_stage_runs_and_runs_again(repository_root: Path, speech_dir: Path, tmp_path: Path) -> None:
    """The recipe goes from a corpus to a table with a language model; a second run trains nothing."""
    make_librispeech(speech_dir, tmp_path / "corpus")
    text = tmp_path / "text.txt"
    sentences = [u.text or "" for u in manifest.read(speech_dir / "core.jsonl") if u.corpus == "dev-clean"]
    text.write_text("\n".join(sentences[:300]), encoding="utf-8")
    options = ["--config", "tiny", "--work", str(tmp_path / "work"), "--corpus", str(tmp_path / "corpus")]
    options += ["--lm-text", str(text), "--device", "cpu", "--jobs", "1"]

    done = run(repository_root, *options)
    assert done.returncode == 0, done.stderr[-2_000:]
    stages = re.findall(r"^== (\w+)$", done.stdout, re.MULTILINE)
    assert stages == ["download", "prepare", "statistics", "tokenizer", "train", "average", "lm", "evaluate", "results"]
    table = (tmp_path / "work" / "tiny" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| dev-other \| beam 4, (.*?) \| (\d+) \| \d+ \| (\d+\.\d+) \|", table, re.MULTILINE)
    assert [(search, int(count)) for search, count, _ in rows] == [
        ("CTC 0.3", PARTS[1][2]),
        ("CTC 0.3, LM 0.3", PARTS[1][2]),
    ]
    assert table in done.stdout

    weights = tmp_path / "work" / "tiny" / "run" / "best" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(repository_root, *options, "prepare", "tokenizer", "train", "average", "results")
    assert again.returncode == 0, again.stderr[-2_000:]
    assert "were prepared already" in again.stdout
    assert weights.stat().st_mtime_ns == before


def test_wrong_use_is_one_line(repository_root: Path, tmp_path: Path) -> None:
    work = ("--work", str(tmp_path / "work"))
    for arguments, said in (
        (("--nonsense",), "run.sh: no option '--nonsense'; see --help"),
        (("--config", "huge", *work), "run.sh: no config 'huge' is known here"),
        ((*work, "download", "dance"), "run.sh: no stage 'dance'"),  # reported before any download
    ):
        done = run(repository_root, *arguments)
        assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", said)
    assert "Stages, all of them if none is named: download" in run(repository_root, "--help").stdout


def test_a_stage_that_fails_ends_the_run(repository_root: Path, tmp_path: Path) -> None:
    done = run(repository_root, "--config", "tiny", "--work", str(tmp_path), "results", "average")
    assert done.returncode == 1
    assert done.stderr.startswith("results: ")
    assert done.stderr.count("\n") == 1
    assert "== average" not in done.stdout


def chapter(corpus: Path) -> Path:
    folder = corpus / "test-clean" / "61" / "70968"
    folder.mkdir(parents=True)
    soundfile.write(folder / "61-70968-0000.flac", np.zeros(32_000, dtype=np.float32), 16_000)
    (folder / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN\n", encoding="utf-8")
    return folder


def test_a_part_becomes_a_manifest(tmp_path: Path) -> None:
    folder = chapter(tmp_path)
    assert part_manifest.main([str(tmp_path / "test-clean"), "--output", str(tmp_path / "m.jsonl")]) == 0
    (one,) = manifest.read(tmp_path / "m.jsonl")
    assert (one.id, one.text, one.corpus, one.speaker) == ("61-70968-0000", "HE BEGAN", "test-clean", "61")
    assert (one.audio, one.duration_seconds) == (folder / "61-70968-0000.flac", 2.0)


@pytest.mark.parametrize(("lost", "said"), [("flac", "cannot be read"), ("trans.txt", "no utterance|no corpus")])
def test_a_part_with_something_missing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str, said: str
) -> None:
    """A part with a missing recording or text is refused: its word error rate would be that of another test set."""
    next(chapter(tmp_path).glob(f"*.{lost}")).unlink()
    assert part_manifest.main([str(tmp_path / "test-clean"), "--output", str(tmp_path / "m.jsonl")]) == 1
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "m.jsonl").exists()


def score(errors: int, lm_weight: float = 0.0, failed: int = 0) -> dict[str, Any]:
    words = {"substitutions": errors, "deletions": 1, "insertions": 1, "reference_length": 1_000}
    total = {"utterances": 40, "words": words, "characters": words, "wer_interval": [0.01, 0.05]}
    search = {"beam_size": 8, "ctc_weight": 0.3, "lm_weight": lm_weight}
    settings = {
        "spellstream": "1",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "batch_size": 16,
        "search": search,
    }
    return {"settings": settings, "failed": failed, "real_time_factor": 0.01, "summaries": [{}, total]}


def test_the_table_has_a_row_for_each_set_and_search(tmp_path: Path) -> None:
    for name, one in (("test-clean", score(23)), ("test-clean+lm", score(3, lm_weight=0.5)), ("test-other", score(48))):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    scores = [str(tmp_path / f"{name}.json") for name in ("test-clean", "test-clean+lm", "test-other")]
    (tmp_path / "corpus.json").write_text('{"utterances": 28000, "seconds": 360000}')
    output = tmp_path / "RESULTS.md"
    more = ["--command", "run.sh", "--data", str(tmp_path), "--output", str(output)]
    assert results.main([str(tmp_path), *scores, *more]) == 0
    table = output.read_text(encoding="utf-8")
    assert "| test-clean | beam 8, CTC 0.3 | 40 | 1,000 | 2.50 | 1.00 – 5.00 | 2.50 | 0.0100 |" in table
    assert "| test-clean | beam 8, CTC 0.3, LM 0.5 | 40 | 1,000 | 0.50 |" in table
    assert "| test-other | beam 8, CTC 0.3 | 40 | 1,000 | 5.00 |" in table
    assert "- command: `run.sh`\n" in table
    assert f"- trained on: {tmp_path.name} (28,000 utterances, 100.0 h)\n" in table
    assert "could not be read" not in table
    assert "3 utterances could not be read" in results.markdown({"a": score(1, failed=3)}, {})


def test_scores_that_are_none_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for content in ("{", "[]", "{}"):
        (tmp_path / "a.json").write_text(content)
        assert results.main([str(tmp_path), str(tmp_path / "a.json"), "--output", str(tmp_path / "R.md")]) == 1
        error = capsys.readouterr().err
        assert str(tmp_path / "a.json") in error
        assert error.count("\n") == 1
