"""Checkpoints: a folder with `model.safetensors`, `config.json`, `tokenizer.model` and a model card.

Nothing in it is ever unpickled: a checkpoint is data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from asr.config import ModelConfig, from_dict, to_dict
from asr.errors import CheckpointError, ConfigError, TokenizerError
from asr.model import Model
from asr.tokenizer import Tokenizer

__all__ = ["Checkpoint", "find", "load", "pretrained", "save"]

T = TypeVar("T")

_WEIGHTS, _CONFIG, _TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
_PRETRAINED = Path(__file__).parent / "pretrained"


class Checkpoint(NamedTuple):
    """A model in evaluation mode, in float32, and the tokenizer that it was trained with."""

    model: Model
    tokenizer: Tokenizer
    folder: Path


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.parent.name for p in _PRETRAINED.glob(f"*/{_CONFIG}"))


def find(name: str | Path) -> Path:
    """The folder of a shipped model's name or of a path.

    Raises:
        CheckpointError: if it is neither.
    """
    for folder in (_PRETRAINED / name, Path(name)):
        if (folder / _CONFIG).is_file():
            return folder
    if Path(name).is_dir():
        raise CheckpointError(f"{name}: this folder has no {_CONFIG}, so it is no checkpoint")
    shipped = ", ".join(pretrained()) or "none"
    raise CheckpointError(f"{name}: neither a checkpoint folder nor a shipped model (shipped: {shipped})")


def load(name: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: if something is missing, unreadable, or does not fit the config; it names the file.
    """
    from safetensors.torch import load_file

    folder = find(name)
    config = _read(folder / _CONFIG, lambda path: from_dict(ModelConfig, json.loads(path.read_text(encoding="utf-8"))))
    tokenizer = _read(folder / _TOKENIZER, lambda path: Tokenizer(path.read_bytes()))
    weights = _read(folder / _WEIGHTS, load_file)
    if len(tokenizer) != config.vocab_size:
        raise CheckpointError(
            f"{folder}: {_TOKENIZER} has {len(tokenizer)} tokens, but {_CONFIG} says vocab_size {config.vocab_size}"
        )
    model = Model(config)
    _check(folder, model, weights)
    model.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
    return Checkpoint(model.eval(), tokenizer, folder)


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    """What `reader` makes of one file; all that it may meet becomes a CheckpointError that names the file."""
    from safetensors import SafetensorError

    try:
        return reader(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    except (ValueError, RecursionError, ConfigError, TokenizerError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check(folder: Path, model: Model, weights: dict[str, Tensor]) -> None:
    """Raise a CheckpointError that names the first tensor that does not fit."""
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "is not part of the model that config.json describes"
        raise CheckpointError(f"{folder / _WEIGHTS}: the tensor {name} {problem}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{folder / _WEIGHTS}: the tensor {name} has shape {tuple(tensor.shape)}; "
                f"config.json asks for {tuple(expected[name].shape)}"
            )


def save(folder: Path, model: Model, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint; floating-point weights are stored as `dtype`. The weights appear last, and whole."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(to_dict(model.config), indent=2) + "\n", encoding="utf-8")
    (folder / _TOKENIZER).write_bytes(tokenizer.model)
    state = {
        name: (w.to(dtype) if w.is_floating_point() else w).detach().cpu().contiguous()
        for name, w in model.state_dict().items()
    }
    part = folder / (_WEIGHTS + ".part")
    save_file(state, part)
    part.replace(folder / _WEIGHTS)
