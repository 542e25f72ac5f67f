"""Weight averaging: the mean of several checkpoints of a run is often better than each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr import checkpoint
from asr.config import Context, ModelConfig, SearchConfig
from asr.errors import CheckpointError

__all__ = ["MEASUREMENTS", "MODELS", "average", "choose", "folder_of", "kept", "measurements"]

MEASUREMENTS, MODELS = "measurements.jsonl", "models"  # in a run's folder
_DEFAULT_BEST = 5


def folder_of(run: Path, step: int) -> Path:
    """Folder of the model saved at a step."""
    return run / MODELS / f"step-{step:08d}"


def kept(wers: Mapping[int, float], last: int, best: int) -> set[int]:
    """Steps of the `last` newest and the `best` best measurements; ties go to the later one."""
    by_age, by_wer = sorted(wers, reverse=True), sorted(wers, key=lambda step: (wers[step], -step))
    return {*by_age[:last], *by_wer[:best]}


def measurements(run: Path) -> dict[int, dict[str, float]]:
    """A run's measurements on dev by step: `wer` (a fraction), the losses `attention` and `ctc`, and `accuracy`.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = run / MEASUREMENTS
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {int(row.pop("step")): {"wer": float(row.pop("wer")), **_floats(row)} for row in rows}
    except OSError as error:
        raise CheckpointError(f"{run}: not a run with measurements: {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}") from None


def _floats(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()}


def choose(run: Path, last: int | None = None, best: int | None = None) -> list[Path]:
    """Folders of the models of a run's `last` newest or `best` best measurements, oldest first.

    With neither, the five best, or all if there are fewer.

    Raises:
        CheckpointError: if there are fewer models than requested, or none.
    """
    measured = measurements(run)
    present = {step: values["wer"] for step, values in measured.items() if folder_of(run, step).is_dir()}
    wanted = last or best or min(_DEFAULT_BEST, len(present))
    if not 0 < wanted <= len(present):
        raise CheckpointError(
            f"{run / MODELS}: {len(present)} models found, {max(wanted, 1)} requested; "
            f"the run's config sets keep_last and keep_best"
        )
    steps = kept(present, wanted, 0) if last else kept(present, 0, wanted)
    return [folder_of(run, step) for step in sorted(steps)]


def average(folders: Sequence[Path], output: Path) -> None:
    """Write the mean of several models' weights as a model.

    Args:
        folders: models of one architecture; dropout and search settings may differ. Repeated folders count repeatedly.
            Everything but weights is copied from the last.
        output: the new model's folder.

    Raises:
        CheckpointError: if one cannot be read, or differs from the first in architecture or tokenizer.
    """
    first = checkpoint.load(folders[0])
    total: dict[str, Tensor] = {name: torch.zeros_like(w).double() for name, w in first.model.state_dict().items()}
    newest = first
    for folder in folders:
        newest = checkpoint.load(folder)
        if _kind(newest.model.config) != _kind(first.model.config) or newest.tokenizer.model != first.tokenizer.model:
            raise CheckpointError(f"{folder}: another architecture or tokenizer than {folders[0]}")
        for name, weight in newest.model.state_dict().items():
            total[name] += weight
    state = newest.model.state_dict()
    mean = {name: (w / len(folders)).to(state[name].dtype) for name, w in total.items()}
    newest.model.load_state_dict({name: mean[name] if w.is_floating_point() else w for name, w in state.items()})
    checkpoint.save(output, newest.model, newest.tokenizer, torch.float16)
    checkpoint.copy_text_models(newest.folder, output)


def _kind(config: ModelConfig) -> ModelConfig:
    """The part of a config that determines the shape of the weights."""
    return replace(
        config,
        encoder=replace(config.encoder, dropout=0.0),
        decoder=replace(config.decoder, dropout=0.0),
        search=SearchConfig(),
        streaming=Context(),
    )
