"""Recordings with their texts, for the benchmark of imported models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr import audio

__all__ = ["Clip", "load"]


class Clip(NamedTuple):
    """A recording and its text."""

    waveform: Tensor
    text: str


def load(manifest: Path, corpus: str | None = None, least_seconds: float = 0.0) -> list[Clip]:
    """The utterances of a manifest, shortest first: all, or those of a corpus with a minimum length."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("text") and row["duration"] >= least_seconds]
    rows = [row for row in rows if corpus in (None, row.get("corpus"))]
    rows.sort(key=lambda row: row["duration"])
    return [Clip(audio.load(manifest.parent / row["audio"]), row["text"]) for row in rows]
