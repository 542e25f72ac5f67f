"""SpeechBrain's attention models, read from a folder as the hub holds it.

The folder has `hyperparams.yaml` and the checkpoints of the model, the normalisation and the tokenizer, and that of the
language model if there is one. Neither the YAML nor a checkpoint is executed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from asr.errors import CheckpointError, TokenizerError
from asr.importing.speechbrain.hyperparams import Hyperparams
from asr.importing.speechbrain.recipe import Recipe, read_recipe
from asr.importing.speechbrain.vocabulary import Vocabulary, convert
from asr.importing.speechbrain.weights import Tensors, lm_weights, model_weights, normaliser_weights, read_checkpoint
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.text.tokenizer import Tokenizer

__all__ = ["Imported", "read"]

# Names of the recogniser's checkpoint other than the recipe's own.
_OTHERS = {"model": ("asr", "model")}


class Imported(NamedTuple):
    """A converted model in evaluation mode, with its tokenizer and language model."""

    model: Model
    tokenizer: Tokenizer
    lm: LanguageModel | None
    notes: tuple[str, ...]  # one sentence for each omitted part


def read(folder: Path) -> Imported:
    """Convert the model of a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or a setting or tensor is not supported; the message names it.
    """
    params = Hyperparams(folder / "hyperparams.yaml")
    recipe = read_recipe(params)
    tokenizer, vocabulary = _tokenizer(_file(folder, recipe, "tokenizer"), recipe)
    if vocabulary.size != recipe.model.vocab_size:
        raise params.error(f"{recipe.model.vocab_size} tokens, but the tokenizer has {vocabulary.size}")

    path = _file(folder, recipe, "model")
    weights = model_weights(Tensors(path, read_checkpoint(path)), recipe, vocabulary)
    statistics = _file(folder, recipe, "normaliser")
    n_mels = recipe.model.features.n_mels
    weights |= normaliser_weights(statistics, read_checkpoint(statistics), n_mels)
    model = Model(replace(recipe.model, vocab_size=len(tokenizer)))
    _fill(model, weights, path)

    lm = _lm(folder, recipe, tokenizer, vocabulary)
    return Imported(model, tokenizer, lm, recipe.notes)


def _lm(folder: Path, recipe: Recipe, tokenizer: Tokenizer, vocabulary: Vocabulary) -> LanguageModel | None:
    if recipe.lm is None:
        return None
    path = _file(folder, recipe, "lm")
    lm = LanguageModel(replace(recipe.lm, vocab_size=len(tokenizer)))
    _fill(lm, lm_weights(Tensors(path, read_checkpoint(path)), recipe.lm.dense_layers, vocabulary), path)
    return lm


def _file(folder: Path, recipe: Recipe, part: str) -> Path:
    names = dict.fromkeys((recipe.files[part], *_OTHERS.get(part, ())))
    for name in names:
        if (path := folder / f"{name}.ckpt").is_file():
            return path
    raise CheckpointError(f"{folder}: no {' or '.join(f'{name}.ckpt' for name in names)}, which holds the {part}")


def _tokenizer(path: Path, recipe: Recipe) -> tuple[Tokenizer, Vocabulary]:
    try:
        return convert(path.read_bytes(), recipe.specials)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except TokenizerError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights and set evaluation mode; an error names the first weight that does not fit the recipe."""
    for name, expected in module.state_dict().items():
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != tuple(expected.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {shape}; hyperparams.yaml asks for {tuple(expected.shape)}"
            )
    if odd := sorted(weights.keys() - module.state_dict().keys()):
        raise CheckpointError(f"{path}: {odd[0]} is not part of what hyperparams.yaml describes")
    module.load_state_dict(weights)
    module.eval()
