"""Locations of models: the names of a model's files, and the folder for a model's name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError
from asr.files import user_home
from asr.hub import CHECKSUMS, fetch, is_reference

__all__ = [
    "CARD",
    "CONFIG",
    "FILES",
    "LM_CONFIG",
    "LM_WEIGHTS",
    "MARKS_CONFIG",
    "MARKS_WEIGHTS",
    "SOURCE",
    "TOKENIZER",
    "WEIGHTS",
    "find",
    "find_lm",
    "find_punctuation",
    "home",
    "origin",
    "pretrained",
]

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
LM_WEIGHTS, LM_CONFIG = "lm.safetensors", "lm.json"
MARKS_WEIGHTS, MARKS_CONFIG = "punctuation.safetensors", "punctuation.json"
CARD, SOURCE = "README.md", "source.json"  # the model card; the origin of an imported model
FILES = (  # all files of a model's folder; no other file is downloaded
    *(CONFIG, WEIGHTS, TOKENIZER, LM_CONFIG, LM_WEIGHTS, MARKS_CONFIG, MARKS_WEIGHTS),
    *(CARD, SOURCE, CHECKSUMS, "LICENSE"),
)
_PRETRAINED = Path(__file__).parent / "pretrained"


def pretrained() -> list[str]:
    """Names of the models in the package."""
    return sorted(p.parent.name for p in _PRETRAINED.glob(f"*/{CONFIG}"))


def home() -> Path:
    """The folder of the user's own models, named by their folders: `$SPELLSTREAM_HOME/models`."""
    data = os.environ.get("XDG_DATA_HOME") or user_home() / ".local" / "share"
    return Path(os.environ.get("SPELLSTREAM_HOME") or Path(data) / "spellstream") / "models"


def origin(folder: Path) -> dict[str, Any]:
    """Content of an imported model's `source.json`; empty for others."""
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return source if isinstance(source, dict) else {}


def find(name: str | Path) -> Path:
    """Resolve a model to its folder: a shipped one, one in `home`, a path, or `hub:OWNER/NAME`, which is downloaded.

    Raises:
        CheckpointError: if it is none of these.
        HubError, DependencyError: see `asr.hub.fetch`.
    """
    if is_reference(name):
        folder = fetch(str(name), take=FILES).folder
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{name}: the repository has no {CONFIG}, so it is not a Spellstream model")
        return folder
    for folder in (_PRETRAINED / name, home() / name, Path(name)):
        if (folder / CONFIG).is_file():
            return folder
    if Path(name).is_dir():
        raise CheckpointError(f"{name}: this folder has no {CONFIG}, so it is not a checkpoint")
    known = ", ".join([*pretrained(), *(own.parent.name for own in sorted(home().glob(f"*/{CONFIG}")))]) or "none"
    raise CheckpointError(
        f"{name}: neither a checkpoint folder nor the name of a model (known: {known}); on the hub: hub:OWNER/NAME"
    )


def find_lm(name: str | Path) -> Path:
    """Resolve a language model to its folder: a model that has one, a path, or `hub:OWNER/NAME`, which is downloaded.

    Raises:
        CheckpointError: the repository has no language model.
        HubError, DependencyError: see `asr.hub.fetch`.
    """
    return _find_part(name, (LM_CONFIG, LM_WEIGHTS), "language model")


def find_punctuation(name: str | Path) -> Path:
    """As `find_lm`, for a punctuation model."""
    return _find_part(name, (MARKS_CONFIG, MARKS_WEIGHTS), "punctuation model")


def _find_part(name: str | Path, files: tuple[str, str], kind: str) -> Path:
    if is_reference(name):
        folder = fetch(str(name), take=(*files, CHECKSUMS)).folder
        if not (folder / files[0]).is_file():
            raise CheckpointError(f"{name}: the repository has no {files[0]}, so it is no Spellstream {kind}")
        return folder
    known = (_PRETRAINED / name, home() / name)
    return next((folder for folder in known if (folder / files[0]).is_file()), Path(name))
