"""The graphs of a model, with the names and sizes of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator

from asr.exporting.encoder_step import EncoderStep
from asr.exporting.graphs import AttentionMemory, CtcHead, DecoderStep, Features, LmStep, WholeEncoder
from asr.exporting.trace import Graph, Port
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.model.recurrent import PARTS

__all__ = ["graphs_of"]


def graphs_of(model: Model, lm: LanguageModel | None) -> Iterator[Graph]:
    """All graphs, in the order in which a search needs them."""
    yield from _encoding(model)
    yield from _spelling(model)
    if lm is not None:
        yield _language_model(lm)


def _encoding(model: Model) -> Iterator[Graph]:
    config = model.config
    mels, size = config.features.n_mels, config.encoder.output_size
    features, lengths = Port("features", ("B", "T", mels)), Port("lengths", ("B",), "int64")
    encoder_out = Port("encoder_out", ("B", "U", size))
    waveform = (Port("waveform", ("B", "S")), Port("samples", ("B",), "int64"))
    yield Graph("features", Features(model), waveform, (features, lengths))
    yield Graph(
        "encoder",
        WholeEncoder(model),
        (features, lengths),
        (encoder_out, Port("encoder_out_lengths", ("B",), "int64")),
    )
    step = EncoderStep(model)
    yield Graph(
        "encoder_step", step, (features, *step.numbers, *step.state), (encoder_out, *(port.next for port in step.state))
    )
    yield Graph("ctc", CtcHead(model), (encoder_out,), (Port("log_probs", ("B", "U", config.vocab_size)),))


def _spelling(model: Model) -> Iterator[Graph]:
    """The attention's memory and the decoder's step."""
    config, attention = model.config, model.decoder.attention
    size = config.encoder.output_size
    keys = config.attention.size
    values = keys if config.attention.scorer == "multi_head" else attention.context_size

    def memory(rows: str) -> tuple[Port, Port, Port]:
        return (
            Port("keys", (rows, "U", keys)),
            Port("values", (rows, "U", values)),
            Port("inside", (rows, "U"), "bool"),
        )

    yield Graph(
        "memory",
        AttentionMemory(model),
        (Port("encoder_out", ("B", "U", size)), Port("encoder_out_lengths", ("B",), "int64")),
        (*memory("B"), Port("alignment", ("B", attention.heads, "U"))),
    )
    hidden = ("N", config.decoder.layers, PARTS[config.decoder.cell], config.decoder.hidden_size)
    context, alignment = ("N", attention.context_size), ("N", attention.heads, "U")
    yield Graph(
        "decoder_step",
        DecoderStep(model),
        (
            Port("tokens", ("N",), "int64"),
            Port("hidden", hidden),
            Port("context", context),
            Port("alignment", alignment),
            *memory("N"),
        ),
        (
            Port("log_probs", ("N", config.vocab_size)),
            Port("next_hidden", hidden),
            Port("next_context", context),
            Port("next_alignment", alignment),
        ),
    )


def _language_model(lm: LanguageModel) -> Graph:
    state = ("N", lm.config.layers, lm.config.hidden_size)
    return Graph(
        "lm_step",
        LmStep(lm),
        (Port("tokens", ("N",), "int64"), Port("hidden", state), Port("cell", state)),
        (Port("log_probs", ("N", lm.config.vocab_size)), Port("next_hidden", state), Port("next_cell", state)),
    )
