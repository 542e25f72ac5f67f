"""Small corpora of tones, and reports of omitted utterances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile


def tone(path: Path, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(values[:, None], channels, axis=1), rate)
    return path


def manifest(folder: Path, *rows: tuple[str, str | None] | str) -> Path:
    """A manifest of (id, text) rows; the audio is `ID.wav`, 1 s long."""
    lines = []
    for row in rows:
        about = (
            row if isinstance(row, str) else {"id": row[0], "audio": f"{row[0]}.wav", "duration": 1.0, "text": row[1]}
        )
        lines.append(about if isinstance(about, str) else json.dumps(about))
    (folder / "some.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "some.jsonl"


def tones(folder: Path, count: int) -> Path:
    """A manifest of valid utterances of different lengths."""
    for i in range(count):
        tone(folder / f"u{i}.wav", 1.0 + i / 100)
    return manifest(folder, *((f"u{i}", "go on") for i in range(count)))


def problems(folder: Path) -> dict[str, str]:
    """Stored kind of problem by id."""
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["kind"] for row in rows}
