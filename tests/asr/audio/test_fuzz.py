"""Damaged files of 16 formats give an AudioError or whole audio, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, blocks
from asr.audio.decode import duration_seconds
from asr.errors import AudioError
from tests.support.commands import Command
from tests.support.containers import KINDS, SECONDS
from tests.support.mutations import MUTATIONS, mutate

FORMATS = [name for name in KINDS if name not in ("au", "mov", "mka", "flv", "aac", "ac3")]
HEADER_BYTES = 1024  # other mutated bytes may make a valid file of another kind: 513 channels, another format
PAGED = {"ogg", "opus"}  # a cut between two pages cannot be seen


def damaged(originals: dict[str, Path], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Format, mutation and content of each file."""
    contents = {suffix: originals[suffix].read_bytes() for suffix in FORMATS}
    generator = np.random.default_rng(seed)
    for number in range(count):
        suffix, kind = FORMATS[number % len(FORMATS)], MUTATIONS[number // len(FORMATS) % len(MUTATIONS)]
        other = contents[FORMATS[int(generator.integers(len(FORMATS)))]]
        yield suffix, kind, mutate(contents[suffix], other, kind, generator)


def read(path: Path) -> tuple[float, AudioError | None]:
    """Seconds of audio, and the error after them."""
    samples = 0
    try:
        for block in blocks(path, keep_damaged=True):
            samples += len(block)
    except AudioError as error:
        return samples / SAMPLE_RATE, error
    return samples / SAMPLE_RATE, None


@pytest.mark.parametrize(
    ("count", "seed"), [(160, 0), pytest.param(10_000, 1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_damaged_files_are_audio_or_an_error(originals: dict[str, Path], tmp_path: Path, count: int, seed: int) -> None:
    for number, (suffix, kind, content) in enumerate(damaged(originals, count, seed)):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        started = time.monotonic()
        seconds, error = read(path)
        what = f"file {number} of seed {seed}: {kind} {suffix}, {seconds:.2f} s, {error}"
        assert time.monotonic() - started < 60, what
        if error is None and KINDS[suffix].tells_length and not (kind == "cut" and suffix in PAGED):
            is_same = content.startswith(originals[suffix].read_bytes()[:HEADER_BYTES])
            expected = SECONDS if is_same else min(SECONDS, duration_seconds(path) or 0)
            assert seconds > expected - 0.3, what


@pytest.mark.slow
def test_damaged_files_through_the_command(originals: dict[str, Path], tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (suffix, kind, content) in enumerate(damaged(originals, 300, 2)):
        (folder / f"{number:03}-{kind}.{suffix}").write_bytes(content)
    code, _, err = command("transcribe", str(folder), "--output-dir", str(tmp_path / "out"), "--keep-damaged")
    assert code == 1
    assert "Traceback" not in err
    assert all(line.startswith("spellstream: ") for line in err.splitlines())
