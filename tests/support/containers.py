"""Small files in many formats, made by ffmpeg, with faults: cuts, gaps, late tracks, damage."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg, which makes the files, is missing")

SECONDS = 3.0  # length of the files that the fixture `originals` makes


class Kind(NamedTuple):
    """A container: ffmpeg's options, and properties of its files."""

    suffix: str
    options: str
    tells_length: bool = True


KINDS = {
    kind.suffix: kind
    for kind in (
        Kind("wav", "-c:a pcm_s16le"),
        Kind("flac", "-c:a flac"),
        Kind("aiff", "-c:a pcm_s16be"),
        Kind("au", "-c:a pcm_s16be"),
        Kind("caf", "-c:a pcm_s16be"),
        Kind("w64", "-c:a pcm_s16le"),
        Kind("ogg", "-c:a libvorbis -page_duration 100000"),
        Kind("opus", "-c:a libopus -page_duration 100000"),
        Kind("mp3", "-c:a libmp3lame"),
        Kind("m4a", "-c:a aac -movflags +faststart"),
        Kind("mov", "-c:a pcm_s16le -movflags +faststart"),
        Kind("mkv", "-c:a aac"),
        Kind("mka", "-c:a flac"),
        Kind("webm", "-c:a libopus"),
        Kind("avi", "-c:a pcm_s16le"),
        Kind("wma", "-c:a wmav2"),
        Kind("wv", "-c:a wavpack -frame_size 8000"),
        Kind("tta", "-c:a tta"),
        Kind("flv", "-c:a libmp3lame -ar 22050"),
        Kind("ts", "-c:a aac", tells_length=False),
        Kind("aac", "-c:a aac", tells_length=False),
        Kind("ac3", "-c:a ac3", tells_length=False),
    )
}


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg; existing files are overwritten."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


@cache
def bursts(seconds: float) -> np.ndarray:
    """Noise modulated at 4 Hz, like syllables, which codecs cannot compress much."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(time))
    return (noise * (0.05 + np.square(np.sin(4 * np.pi * time)))).astype(np.float32)


def make(folder: Path, suffix: str, seconds: float = 3.0) -> Path:
    """Make a file of this kind with `bursts`."""
    source, path = folder / "source.wav", folder / f"whole.{suffix}"
    soundfile.write(source, bursts(seconds), SAMPLE_RATE)
    ffmpeg("-i", source, *KINDS[suffix].options.split(), path)
    return path
