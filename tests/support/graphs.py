"""Graphs that onnxruntime runs, and their largest differences from the modules they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.config import Context
from asr.model.las import Model
from asr.model.lm import LanguageModel

__all__ = ["Graphs", "Recorded"]

Array = np.ndarray[Any, np.dtype[Any]]


class Recorded(dict[str, float]):
    """The largest difference of each graph so far."""

    def compare(self, graph: str, expected: Tensor, found: Array) -> None:
        assert tuple(expected.shape) == found.shape, graph
        difference = float(np.abs(expected.numpy() - found).max(initial=0.0))
        assert np.isfinite(found).all(), graph
        self[graph] = max(self.get(graph, 0.0), difference)


class Graphs:
    """The graphs of a folder."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            path.stem: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in folder.glob("*.onnx")
        }

    def run(self, graph: str, *inputs: Any) -> list[Array]:
        session = self.sessions[graph]
        arrays = [each.numpy() if isinstance(each, Tensor) else np.asarray(each) for each in inputs]
        names = [each.name for each in session.get_inputs()]
        return list(session.run(None, dict(zip(names, arrays, strict=True))))


@torch.inference_mode()
def compare_whole(graphs: Graphs, model: Model, waveform: Tensor, samples: Tensor, into: Recorded) -> None:
    """Features, encoder output, CTC and the decoder's memory of a padded batch."""
    features, lengths = model.features(waveform, samples)
    found = graphs.run("features", waveform, samples)
    into.compare("features", features, found[0])
    into.compare("feature lengths", lengths, found[1])

    encoder_out, out_lengths = model.encode_features(features, lengths)
    found = graphs.run("encoder", features, lengths)
    into.compare("encoder", encoder_out, found[0])
    into.compare("encoder lengths", out_lengths, found[1])
    into.compare("ctc", model.ctc_log_probs(encoder_out), graphs.run("ctc", encoder_out)[0])


@torch.inference_mode()
def compare_decoder(
    graphs: Graphs, model: Model, encoder_out: Tensor, lengths: Tensor, tokens: Tensor, into: Recorded
) -> None:
    """Each step over `tokens` `(B, U)`; the graph's state is its own from beginning to end."""
    memory = model.decoder.prepare(encoder_out, lengths)
    state = model.decoder.initial_state(memory)
    keys, values, inside, alignment = graphs.run("memory", encoder_out, lengths)
    into.compare("memory", memory.keys, keys)
    hidden, context = np.zeros_like(state.hidden), np.zeros_like(state.context)
    for last in tokens.unbind(1):
        readout, state = model.decoder.step(last, state, memory)
        log_probs, hidden, context, alignment = graphs.run(
            "decoder_step", last, hidden, context, alignment, keys, values, inside
        )
        into.compare("decoder_step", model.decoder.logits(readout).log_softmax(-1), log_probs)
        into.compare("attention", state.alignment, alignment)


@torch.inference_mode()
def compare_lm(graphs: Graphs, lm: LanguageModel, tokens: Tensor, into: Recorded) -> None:
    """Each step over `tokens` `(N, U)`."""
    state = lm.initial_state(len(tokens))
    hidden, cell = np.zeros_like(state.hidden), np.zeros_like(state.cell)
    for last in tokens.unbind(1):
        expected, state = lm.step(last, state)
        log_probs, hidden, cell = graphs.run("lm_step", last, hidden, cell)
        into.compare("lm_step", expected, log_probs)


@torch.inference_mode()
def compare_stream(
    graphs: Graphs, model: Model, features: Tensor, context: Context, sizes: dict[str, int], into: Recorded
) -> None:
    """The encoder's steps over `features` `(B, T, n_mels)`, in both forms; `sizes` are of the metadata."""
    expected, _ = model.encoder.step(features, model.encoder.initial_state(len(features)), context, final=True)
    outs, state, at = [], zeros(model, len(features)), 0
    while at < features.shape[1]:
        seen = features[:, at : at + sizes["chunk"] + sizes["lookahead"]]
        chunk = min(sizes["chunk"], seen.shape[1])
        out, *state = graphs.run("encoder_step", seen, chunk, chunk, *state)
        outs.append(out)
        at += chunk
    into.compare("encoder_step", expected, np.concatenate(outs, axis=1))


@torch.inference_mode()
def compare_preview(graphs: Graphs, model: Model, features: Tensor, pace: int, settled: int, into: Recorded) -> None:
    """The latest features encoded again with every `pace` new ones, from a state before them."""
    encoder, reduction = model.encoder, model.config.encoder.reduction
    state, own, at = encoder.initial_state(len(features)), zeros(model, len(features)), 0
    for end in range(pace, features.shape[1] + 1, pace):
        recent = features[:, at:end]
        ahead = max(0, encoder.frames(recent.shape[1]) - settled)
        expected, state = encoder.preview(recent, state, ahead)
        out, *own = graphs.run("encoder_step", recent, recent.shape[1], ahead * reduction, *own)
        into.compare("encoder_step", expected, out)
        at += ahead * reduction


def zeros(model: Model, rows: int) -> list[Any]:
    config = model.config.encoder
    return [np.zeros((rows, len(config.joins), config.hidden_size), np.float32)] * 2
