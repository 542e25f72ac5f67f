"""Export of a model to a folder of ONNX graphs, with the tokenizer and the metadata that a program needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from asr import checkpoint
from asr.config import Context, ModelConfig, to_dict
from asr.errors import CheckpointError, DataError
from asr.exporting.parts import graphs_of
from asr.exporting.trace import Graph, require_onnx, write_graph
from asr.files import write_atomically
from asr.folders import TOKENIZER
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.text.tokenizer import BLANK, EOS, SOS, UNKNOWN, WORD_START, Tokenizer

__all__ = ["METADATA", "export"]

METADATA = "metadata.json"
_FORMAT = 1  # version of the metadata's format
_SECONDS = 2  # of audio in the traced example


def export(name: str | Path, output: Path) -> list[Path]:
    """Write the graphs of a model, `metadata.json` and `tokenizer.model`.

    Weights are float32, which every runtime supports on a CPU.

    Args:
        name: the model, as for `asr.folders.find`; its language model is exported with it.
        output: a folder that does not exist or is empty.

    Returns:
        The files.

    Raises:
        CheckpointError: the model does not exist or is broken, or `output` has files.
        DataError: a file cannot be written.
        DependencyError: onnx is missing.
    """
    require_onnx()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: already exists; choose a new or an empty folder")
    model, tokenizer, folder = checkpoint.load(name)
    lm = checkpoint.load_lm(folder, tokenizer) if checkpoint.has_lm(folder) else None

    graphs = list(graphs_of(model, lm))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output}: {error.strerror or error}") from error
    for graph in graphs:
        write_graph(graph, output, _example(model.config))
    write_atomically(output / TOKENIZER, tokenizer.model)
    facts = metadata(model, tokenizer, lm, graphs)
    write_atomically(output / METADATA, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return [output / each for each in (*(graph.file for graph in graphs), TOKENIZER, METADATA)]


def _example(config: ModelConfig) -> dict[str, int]:
    """Sizes of the traced example; the graphs accept others."""
    samples = _SECONDS * config.features.sample_rate
    frames, reduction = samples // config.features.hop_length, config.encoder.reduction
    chunk = frames // 2 // reduction * reduction
    names = {"B": 2, "N": 2, "S": samples, "T": frames, "U": frames // reduction, "K": reduction, "P": 2}
    numbers = {"samples": samples, "lengths": frames, "encoder_out_lengths": frames // reduction}
    return names | numbers | {"chunk": chunk, "settled": chunk, "lookahead": frames - chunk}


def metadata(model: Model, tokenizer: Tokenizer, lm: LanguageModel | None, graphs: list[Graph]) -> dict[str, Any]:
    """Everything that a program needs to use the graphs, as plain data."""
    config = model.config
    special = {"blank": BLANK, "unknown": UNKNOWN, "sos": SOS, "eos": EOS, "word_start": WORD_START}
    return {
        "format": _FORMAT,
        "graphs": {graph.name: graph.described() for graph in graphs},
        "features": _features(model),
        "encoder": {
            "frame_ms": 1000 * config.frame_seconds,
            "features_per_frame": config.encoder.reduction,
            "least_features": config.encoder.front.reduction,
            "streaming": _streaming(model),
        },
        "tokens": special | {"pieces": [tokenizer.piece(token) for token in range(len(tokenizer))]},
        "search": to_dict(config.search),
        "language_model": None if lm is None else to_dict(lm.config),
    }


def _features(model: Model) -> dict[str, Any]:
    """Settings of the features, for programs that compute them without the graph."""
    settings, features = model.config.features, model.features
    return {
        **to_dict(settings),
        "least_samples": settings.n_fft + settings.hop_length * (model.config.encoder.front.reduction - 1),
        "speech_db": model.config.speech_db,  # the graph does not change levels
        "normalisation": {"mean": features.mean.tolist(), "std": features.std.tolist()},
    }


def _streaming(model: Model) -> dict[str, int]:
    """The chunk and lookahead that the model was trained with, in features."""
    context, encoder, settings = model.config.streaming, model.encoder, model.config.features
    if context.chunk_ms is None:
        context = Context.causal()
    hop_ms = settings.hop_ms
    return {
        "chunk": round(encoder.chunk_ms(context) / hop_ms),
        "lookahead": math.ceil(encoder.lookahead_ms(context) / hop_ms - 1e-6),
    }
