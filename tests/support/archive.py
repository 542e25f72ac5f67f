"""Small archives of empty files."""

from __future__ import annotations

from pathlib import Path


def files(folder: Path, *names: str) -> Path:
    """Make empty files; returns the folder."""
    paths = [folder / name for name in names]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.touch()
    return folder


def below(folder: Path) -> list[str]:
    """The names of all files in a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
