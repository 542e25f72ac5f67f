"""Renaming of SpeechBrain's tensors to ours; a missing or unused tensor is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.importing.speechbrain.recipe import Recipe
from asr.importing.speechbrain.vocabulary import Vocabulary

__all__ = ["Tensors", "lm_weights", "model_weights", "normaliser_weights", "read_checkpoint"]

Named = Iterator[tuple[str, Tensor]]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's table, without running any code that it may hold.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain data.
    """
    from pickle import UnpicklingError  # noqa: TID251

    try:
        # With weights_only, nothing but tensors and plain data is unpickled, so that no code is run.
        found = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except UnpicklingError:
        raise CheckpointError(f"{path}: not a checkpoint of only tensors, so it is not loaded") from None
    except (RuntimeError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path}: not a table of tensors")
    return found


class Tensors:
    """The tensors of a file, taken one by one."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path = path
        self.left = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        if odd := found.keys() - self.left.keys():
            raise CheckpointError(f"{path}: {min(odd)} is not a tensor")

    def take(self, name: str) -> Tensor:
        try:
            value = self.left.pop(name)
        except KeyError:
            raise CheckpointError(f"{self.path}: the tensor {name} is missing") from None
        return value.float() if value.is_floating_point() else value

    def renamed(self, source: str, target: str) -> Named:
        """All tensors whose names begin with `source.`, under names that begin with `target.`."""
        names = [name for name in self.left if name.startswith(f"{source}.")]
        if not names:
            raise CheckpointError(f"{self.path}: the tensors of {source} are missing")
        for name in names:
            yield target + name.removeprefix(source), self.take(name)

    def finish(self) -> None:
        for name in sorted(self.left):
            raise CheckpointError(f"{self.path}: the tensor {name} is not part of what hyperparams.yaml describes")


def model_weights(tensors: Tensors, recipe: Recipe, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The weights of the encoder, the decoder and the CTC head under our names."""
    found: dict[str, Tensor] = {}
    for i, part in enumerate(recipe.parts):
        if part == "encoder":
            found |= dict(_encoder(tensors, str(i), recipe))
        elif part == "decoder":
            found |= dict(_decoder(tensors, str(i), recipe))
        elif part == "embedding":
            found["decoder.embedding.weight"] = vocabulary.inputs(_rows(tensors, f"{i}.Embedding.weight", vocabulary))
        else:
            is_ctc = part == "ctc"
            name, rows = ("ctc", vocabulary.ctc_rows) if is_ctc else ("decoder.to_logits", vocabulary.output_rows)
            output = _rows(tensors, f"{i}.w.weight", vocabulary), _rows(tensors, f"{i}.w.bias", vocabulary)
            found[f"{name}.weight"], found[f"{name}.bias"] = vocabulary.outputs(*output, rows)
    tensors.finish()
    found["decoder.mean_context"] = torch.zeros(recipe.model.attention.context_size)
    return found


def _rows(tensors: Tensors, name: str, vocabulary: Vocabulary) -> Tensor:
    """A tensor with a row for each token."""
    value = tensors.take(name)
    if len(value) != vocabulary.size:
        raise CheckpointError(
            f"{tensors.path}: {name} has {len(value)} rows, but the tokenizer has {vocabulary.size} tokens"
        )
    return value


def _encoder(tensors: Tensors, at: str, recipe: Recipe) -> Named:
    config = recipe.model.encoder
    for block in range(len(config.front.channels)):
        for j in (1, 2):
            source, target = f"{at}.CNN.block_{block}", f"encoder.front.blocks.{block}"
            for name, value in tensors.renamed(f"{source}.conv_{j}.conv", f"{target}.convolutions.{j - 1}"):
                yield name, value.transpose(2, 3) if value.dim() == 4 else value  # ours: (time, frequency)
            yield from tensors.renamed(f"{source}.norm_{j}.norm", f"{target}.norms.{j - 1}")
    if config.front.projection_size:
        yield from tensors.renamed(f"{at}.projection.linear.w", "encoder.front.projection.linear")
        yield from tensors.renamed(f"{at}.projection.norm.norm", "encoder.front.projection.normalisation.layer")

    # With projections, each layer is a module of its own, named by its place.
    lstms, linears = _numbered(tensors, at, "rnn"), _numbered(tensors, at, "w")
    for layer in range(len(config.joins)):
        source, number = (lstms[layer], 0) if layer < len(lstms) else (f"{at}.RNN.rnn", layer)
        for direction, ending in (("forward", ""), ("backward", "_reverse"))[: 2 if config.bidirectional else 1]:
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                target = f"encoder.layers.{layer}.{direction}_lstm.{kind}_l0"
                yield target, tensors.take(f"{source}.{kind}_l{number}{ending}")
        if config.projection_size:
            source = linears[layer] if layer < len(linears) else f"{at}.{layer}.w"
            yield from tensors.renamed(source, f"encoder.layers.{layer}.projection")

    for block in range(config.dense_layers):
        yield from tensors.renamed(f"{at}.DNN.block_{block}.linear.w", f"encoder.dense.{block}.linear")
        yield from tensors.renamed(f"{at}.DNN.block_{block}.norm.norm", f"encoder.dense.{block}.normalisation.batch")


def _numbered(tensors: Tensors, at: str, kind: str) -> list[str]:
    """Names of the numbered modules of a kind, in order."""
    matches = (re.match(rf"{at}\.(\d+)\.{kind}\.", name) for name in tensors.left)
    return [f"{at}.{number}.{kind}" for number in sorted({int(match[1]) for match in matches if match})]


def _decoder(tensors: Tensors, at: str, recipe: Recipe) -> Named:
    attention = recipe.model.attention
    yield from tensors.renamed(f"{at}.rnn.rnn_cells", "decoder.cells")
    yield from tensors.renamed(f"{at}.attn.mlp_out", "decoder.attention.to_context")
    yield "decoder.attention.to_key.weight", tensors.take(f"{at}.attn.mlp_enc.weight")
    yield "decoder.attention.to_query.weight", tensors.take(f"{at}.attn.mlp_dec.weight")
    yield "decoder.attention.to_score.weight", tensors.take(f"{at}.attn.mlp_attn.weight") * recipe.scaling

    # All biases are added before the tanh, so one is enough.
    bias = tensors.take(f"{at}.attn.mlp_enc.bias") + tensors.take(f"{at}.attn.mlp_dec.bias")
    if attention.scorer == "location":
        yield "decoder.attention.filters.weight", tensors.take(f"{at}.attn.conv_loc.weight")
        yield "decoder.attention.to_location.weight", tensors.take(f"{at}.attn.mlp_loc.weight")
        bias = bias + tensors.take(f"{at}.attn.mlp_loc.bias")
    yield "decoder.attention.to_query.bias", bias

    # SpeechBrain puts the context first, we the output of the cells.
    weight, size = tensors.take(f"{at}.proj.weight"), attention.context_size
    yield "decoder.to_readout.weight", torch.cat([weight[:, size:], weight[:, :size]], dim=1)
    yield "decoder.to_readout.bias", tensors.take(f"{at}.proj.bias")


def normaliser_weights(path: Path, found: dict[str, Any], n_mels: int) -> dict[str, Tensor]:
    """The statistics of the features."""
    statistics = {}
    for name, ours in (("glob_mean", "mean"), ("glob_std", "std")):
        value = found.get(name)
        if not isinstance(value, Tensor) or value.shape != (n_mels,):
            raise CheckpointError(f"{path}: no {name} of {n_mels} values")
        statistics[f"features.{ours}"] = value.float()
    statistics["features.std"] = statistics["features.std"].clamp(min=1e-10)
    return statistics


def lm_weights(tensors: Tensors, layers: int, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The weights of the language model, with `layers` dense layers, under our names."""
    found = {"embedding.weight": vocabulary.inputs(_rows(tensors, "embedding.Embedding.weight", vocabulary))}
    found |= dict(tensors.renamed("rnn.rnn", "lstm"))
    for layer in range(layers):
        ending = f"_{layer - 1}" if layer else ""
        found |= dict(tensors.renamed(f"dnn.linear{ending}.w", f"to_logits.{layer}.linear"))
        found |= dict(tensors.renamed(f"dnn.norm{ending}.norm", f"to_logits.{layer}.normalisation.layer"))
    output = _rows(tensors, "out.w.weight", vocabulary), _rows(tensors, "out.w.bias", vocabulary)
    weight, bias = vocabulary.outputs(*output, vocabulary.output_rows)
    tensors.finish()
    return found | {f"to_logits.{layers}.weight": weight, f"to_logits.{layers}.bias": bias}
