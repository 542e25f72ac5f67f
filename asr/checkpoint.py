"""Checkpoints: folders with `model.safetensors`, `config.json` and `tokenizer.model`.

A language model (`lm.safetensors`, `lm.json`) is in the same folder or in a separate one; so is a model for punctuation
and capitals (`punctuation.safetensors`, `punctuation.json`). A checkpoint is pure data: nothing is unpickled, so
loading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from asr.config import LmConfig, ModelConfig, PunctuationConfig, from_dict, to_dict
from asr.errors import CheckpointError, ConfigError, TokenizerError
from asr.files import replacing, write_atomically
from asr.folders import CONFIG, LM_CONFIG, LM_WEIGHTS, MARKS_CONFIG, MARKS_WEIGHTS, TOKENIZER, WEIGHTS, find
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.text.tokenizer import Tokenizer
from asr.writing.network import PunctuationNetwork
from asr.writing.punctuation import Punctuator
from asr.writing.vocabulary import Vocabulary

__all__ = [
    "Checkpoint",
    "copy_text_models",
    "has_lm",
    "has_punctuation",
    "load",
    "load_lm",
    "load_punctuation",
    "save",
    "save_lm",
    "save_punctuation",
    "write_tensors",
]

T = TypeVar("T")

_SCALES = ".scales"  # suffix of the tensor with the row scales of an int8 tensor


class Checkpoint(NamedTuple):
    """A model in evaluation mode, in float32, and its tokenizer."""

    model: Model
    tokenizer: Tokenizer
    folder: Path


def load(name: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: a file is missing or unreadable, or does not match the config; the message names the file.
    """
    from safetensors.torch import load_file

    folder = find(name)
    config = _read(folder / CONFIG, lambda path: from_dict(ModelConfig, json.loads(path.read_text(encoding="utf-8"))))
    tokenizer = _read(folder / TOKENIZER, lambda path: Tokenizer(path.read_bytes()))
    weights = _read(folder / WEIGHTS, load_file)
    if len(tokenizer) != config.vocab_size:
        raise CheckpointError(
            f"{folder}: {TOKENIZER} has {len(tokenizer)} tokens, but {CONFIG} says vocab_size {config.vocab_size}"
        )
    model = Model(config)
    _fill(model, weights, folder / WEIGHTS, CONFIG)
    return Checkpoint(model, tokenizer, folder)


def has_lm(folder: Path) -> bool:
    """Whether a folder has a language model, complete or not."""
    return (folder / LM_CONFIG).exists() or (folder / LM_WEIGHTS).exists()


def load_lm(folder: Path, tokenizer: Tokenizer) -> LanguageModel:
    """Read a language model, in evaluation mode and in float32.

    Args:
        folder: the checkpoint's folder, or a separate one.
        tokenizer: the recogniser's tokenizer; the language model must have been trained with the same vocabulary.

    Raises:
        CheckpointError: a file is missing or unreadable, or does not match; the message names the file.
    """
    from safetensors.torch import load_file

    path = folder / LM_CONFIG
    described = _read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(described, dict) or not {"lm", "vocabulary"} <= described.keys():
        raise CheckpointError(f"{path}: not the description of a language model")
    config = _read(path, lambda _: from_dict(LmConfig, described["lm"], "lm"))
    if config.vocab_size != len(tokenizer) or described["vocabulary"] != _vocabulary(tokenizer):
        raise CheckpointError(
            f"{path}: this language model has another vocabulary ({config.vocab_size} tokens) than the model "
            f"({len(tokenizer)}): train it with the model's tokenizer"
        )
    lm = LanguageModel(config)
    _fill(lm, _read(folder / LM_WEIGHTS, load_file), folder / LM_WEIGHTS, LM_CONFIG)
    return lm


def has_punctuation(folder: Path) -> bool:
    """Whether a folder has a punctuation model, complete or not."""
    return (folder / MARKS_CONFIG).exists() or (folder / MARKS_WEIGHTS).exists()


def load_punctuation(folder: Path) -> Punctuator:
    """Read a punctuation model, in evaluation mode and in float32.

    Raises:
        CheckpointError: a file is missing or unreadable, or does not match; the message names the file.
    """
    from safetensors.torch import load_file

    path = folder / MARKS_CONFIG
    described = _read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(described, dict) or not {"punctuation", "words", "lexicon"} <= described.keys():
        raise CheckpointError(f"{path}: not the description of a punctuation model")
    config = _read(path, lambda _: from_dict(PunctuationConfig, described["punctuation"], "punctuation"))
    words, lexicon = described["words"], described["lexicon"]
    written = lexicon.values() if isinstance(lexicon, dict) else [None]
    if not isinstance(words, str) or not all(isinstance(each, str) for each in written):
        raise CheckpointError(f"{path}: expected words as one string, and a lexicon of strings")
    vocabulary = Vocabulary(words.split(), lexicon, config.buckets)
    if len(vocabulary.words) > config.words:
        raise CheckpointError(f"{path}: {len(vocabulary.words)} words, but at most {config.words} have an embedding")

    weights = _read(folder / MARKS_WEIGHTS, load_file)
    for name in [name for name in weights if name.endswith(_SCALES)]:
        scales, table = weights.pop(name), name.removesuffix(_SCALES)
        if table in weights and weights[table].shape[:1] == scales.shape[:1]:
            weights[table] = weights[table].float() * scales.float()
    network = PunctuationNetwork(config)
    _fill(network, weights, folder / MARKS_WEIGHTS, MARKS_CONFIG)
    return Punctuator(network, vocabulary)


def _vocabulary(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokens in order."""
    pieces = "\n".join(tokenizer.piece(token) for token in range(len(tokenizer)))
    return hashlib.sha256(pieces.encode()).hexdigest()


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    """Read one file with `reader`; its errors become a CheckpointError that names the file."""
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


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path, config: str) -> None:
    """Load weights into a model in evaluation mode; an error names the first tensor of `path` that does not match."""
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else f"is not part of the model that {config} describes"
        raise CheckpointError(f"{path}: the tensor {name} {problem}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: the tensor {name} has shape {tuple(tensor.shape)}; "
                f"{config} asks for {tuple(expected[name].shape)}"
            )
    model.load_state_dict({name: w.float() if w.is_floating_point() else w for name, w in weights.items()})
    model.eval()


def save(folder: Path, model: Model, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint, floating-point weights as `dtype`; a language model in the folder is kept.

    Raises:
        DataError: a file cannot be written; also raised by `save_lm` and `save_punctuation`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / CONFIG, to_dict(model.config))
    write_atomically(folder / TOKENIZER, tokenizer.model)
    _save_weights(folder / WEIGHTS, model, dtype)


def save_lm(folder: Path, lm: LanguageModel, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> None:
    """Write a language model to a checkpoint's folder, or to a separate one."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / LM_CONFIG, {"lm": to_dict(lm.config), "vocabulary": _vocabulary(tokenizer)})
    _save_weights(folder / LM_WEIGHTS, lm, dtype)


def save_punctuation(folder: Path, punctuator: Punctuator) -> None:
    """Write a punctuation model to a folder, a checkpoint's or another: matrices in int8, vectors in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = punctuator.vocabulary
    described = {
        "punctuation": to_dict(punctuator.network.config),
        "words": " ".join(vocabulary.words),
        "lexicon": vocabulary.lexicon,
    }
    _write_json(folder / MARKS_CONFIG, described)

    state: dict[str, Tensor] = {}
    for name, weights in punctuator.network.state_dict().items():
        if weights.dim() == 2:
            scales = weights.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
            state[name] = (weights / scales).round().to(torch.int8)
            state[name + _SCALES] = scales.half().float()
        else:
            state[name] = weights.half()
    write_tensors(folder / MARKS_WEIGHTS, state)


def copy_text_models(source: Path, folder: Path) -> None:
    """Copy the language and punctuation models of a checkpoint, if it has them, to another of the same vocabulary."""
    if source.resolve() == folder.resolve():  # fine-tuning in place
        return
    for name in (LM_CONFIG, LM_WEIGHTS, MARKS_CONFIG, MARKS_WEIGHTS):
        if (source / name).exists():
            with replacing(folder / name) as part:
                shutil.copyfile(source / name, part)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(data, indent=2) + "\n")


def _save_weights(path: Path, model: nn.Module, dtype: torch.dtype) -> None:
    write_tensors(path, {n: w.to(dtype) if w.is_floating_point() else w for n, w in model.state_dict().items()})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write tensors, and texts in the header, to a safetensors file, atomically.

    Raises:
        DataError: the file cannot be written.
    """
    from safetensors.torch import save

    # Not safetensors' `save_file`, whose files only their owner can read, and whose errors are no OSErrors.
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    with replacing(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
