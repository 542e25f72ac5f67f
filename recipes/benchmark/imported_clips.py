"""Recordings with their texts, for the benchmark of imported models."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr import audio
from asr.archive.manifest import read

__all__ = ["Clip", "load"]


class Clip(NamedTuple):
    """A recording and its text."""

    waveform: Tensor
    text: str


def load(manifest: Path, corpus: str | None = None, least_seconds: float = 0.0) -> list[Clip]:
    """The utterances of a manifest, shortest first: all, or those of a corpus with a minimum length."""
    found = [(one.duration_seconds or 0.0, one) for one in read(manifest) if corpus in (None, one.corpus)]
    chosen = sorted((pair for pair in found if pair[0] >= least_seconds), key=lambda pair: pair[0])
    return [Clip(audio.load(one.audio), one.text) for _, one in chosen if one.text]
