"""Graphs run by onnxruntime, and their largest differences from the exported modules."""

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

MOST_KEPT = 8  # features or frames, with the settings of the tests

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
    """Compare features, encoder output, CTC and the decoder's memory of a padded batch."""
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
    """Compare each decoder step over `tokens` `(B, U)`; the graph continues from its own states."""
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
    """Compare each language model step over `tokens` `(N, U)`."""
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
    """Compare encoder steps over `features` `(B, T, n_mels)`; `sizes` from the metadata; `model` may be float64."""
    expected, _ = model.encoder.step(
        features.to(model.dtype), model.encoder.initial_state(len(features)), context, final=True
    )
    outs, stream = [np.zeros((len(features), 0, expected.shape[2]), np.float32)], Stream(graphs, len(features))
    while features.shape[1] - stream.at >= model.config.encoder.front.reduction:
        chunk = min(sizes["chunk"], features.shape[1] - stream.at)
        outs.append(stream.step(features, chunk + sizes["lookahead"], chunk, chunk, sizes["lookahead"]))
    into.compare("encoder_step", expected, np.concatenate(outs, axis=1))
    kept = [stream.state[name].shape[-2] for name in ("past_features", "past_frames") if name in stream.state]
    assert max(kept, default=0) <= MOST_KEPT, "the state grows"


@torch.inference_mode()
def compare_preview(graphs: Graphs, model: Model, features: Tensor, pace: int, settled: int, into: Recorded) -> None:
    """Compare previews: after every `pace` features, the latest ones are encoded again from the state before them."""
    encoder, reduction = model.encoder, model.config.encoder.reduction
    state, stream = encoder.initial_state(len(features)), Stream(graphs, len(features))
    for end in range(pace, features.shape[1] + 1, pace):
        recent = features[:, stream.at : end]
        ahead = max(0, encoder.frames(recent.shape[1]) - settled)
        expected, state = encoder.preview(recent.to(model.dtype), state, ahead)
        count = recent.shape[1]
        into.compare("encoder_step", expected, stream.step(features, count, count, ahead * reduction, 0))


class Stream:
    """A stream of encoder steps, whose state is known from the graph's ports alone."""

    def __init__(self, graphs: Graphs, rows: int) -> None:
        self.graphs, self.at = graphs, 0  # `at`: settled features
        session = graphs.sessions["encoder_step"]
        self.takes = [port.name for port in session.get_inputs()]
        self.gives = [port.name for port in session.get_outputs()]
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self.state = {
            port.name: np.zeros([size if isinstance(size, int) else rows * (size == "B") for size in port.shape], kind)
            for port in session.get_inputs()
            if f"next_{port.name}" in self.gives and (kind := kinds[port.type])
        }

    def step(self, features: Tensor, count: int, chunk: int, settled: int, lookahead: int) -> Array:
        """Encoder output of the next `chunk` features; up to `count` are passed, lookahead included."""
        seen = features[:, self.at : self.at + count]
        given = {"features": seen, "chunk": chunk, "settled": settled, "lookahead": lookahead} | self.state
        found = self.graphs.run("encoder_step", *(given[name] for name in self.takes))
        after = dict(zip(self.gives, found, strict=True))
        self.state = {name: after[f"next_{name}"] for name in self.state}
        self.at += settled
        return after["encoder_out"]
