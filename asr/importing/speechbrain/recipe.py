"""Conversion of a SpeechBrain recipe to our configs.

Supported are attention models with a CRDNN encoder, as in SpeechBrain's recipes for LibriSpeech, CommonVoice and
others: Fbank features, global normalisation, a decoder of GRU or LSTM cells with location-aware or content-based
attention, a CTC head, and a recurrent language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from asr.config import (
    Activation,
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    FrontConfig,
    LmConfig,
    ModelConfig,
)
from asr.errors import ConfigError
from asr.importing.speechbrain.hyperparams import Call, Hyperparams
from asr.importing.speechbrain.searching import Search

__all__ = ["Recipe", "Specials", "read_recipe"]

_ACTIVATIONS: dict[str, Activation] = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "Tanh": "tanh", "GELU": "gelu"}


class Specials(NamedTuple):
    """Special tokens; SpeechBrain may use one token in several roles."""

    blank: int
    bos: int
    eos: int


@dataclass(frozen=True)
class Recipe:
    """A recipe in our terms; `vocab_size` of the configs is still SpeechBrain's."""

    model: ModelConfig
    lm: LmConfig | None
    specials: Specials
    scaling: float  # of the attention scores
    parts: tuple[str, ...]  # kind of each module of the recogniser, in the order of its checkpoint
    files: dict[str, str]  # names, without `.ckpt`, of the checkpoints of the model, lm, normaliser and tokenizer
    notes: tuple[str, ...]  # one sentence for each omitted part


def read_recipe(params: Hyperparams) -> Recipe:
    """The recipe of a `hyperparams.yaml`.

    Raises:
        CheckpointError: a setting is not supported; the message names it.
    """
    try:
        return _RecipeReader(params).recipe()
    except ConfigError as error:
        raise params.error(str(error)) from None


class _RecipeReader:
    """Reads the parts of a recipe, and notes those that have to be omitted."""

    def __init__(self, params: Hyperparams) -> None:
        self.params = params
        self.notes: list[str] = []
        self.search = Search(params)

    def recipe(self) -> Recipe:
        files = self._files()
        parts = self._parts(files["model"])
        features, encoder = self._features(), self._encoder()
        attention, decoder, scaling = self._decoder()
        vocab_size = self._vocab_size()
        frame_seconds = features.hop_ms * encoder.reduction / 1000
        lm = self._lm(vocab_size)
        search = self.search.config(frame_seconds, lm is not None)
        model = ModelConfig(vocab_size, features, encoder, attention, decoder, search)
        return Recipe(model, lm, self._specials(), scaling, parts, files, tuple(self.notes))

    def _only(self, what: str, *names: str) -> tuple[str, Call]:
        """The only top-level setting that constructs one of these classes."""
        found = self.params.calls(*names)
        if len(found) != 1:
            raise self.params.error(f"{len(found)} of {' or '.join(names)}, of which the {what} must be the only one")
        return next(iter(found.items()))

    def _files(self) -> dict[str, str]:
        """The checkpoint of each part, as the pretrainer or the checkpointer of the recipe names it."""
        named: dict[str, Any] = {}
        for holder, field in (("Checkpointer", "recoverables"), ("Pretrainer", "loadables")):
            for key, call in self.params.calls(holder).items():
                arguments = call.arguments if isinstance(call.arguments, dict) else {}
                table = self.params.resolved(arguments.get(field), f"{key}.{field}")
                named |= table if isinstance(table, dict) else {}

        files = {"model": "asr", "lm": "lm", "normaliser": "normalizer", "tokenizer": "tokenizer"}
        kinds = {"ModuleList": "model", "InputNormalization": "normaliser", "SentencePieceProcessor": "tokenizer"}
        kinds |= {"SentencePiece": "tokenizer", "RNNLM": "lm", "TransformerLM": "lm"}
        for name, ref in named.items():
            value = self.params.resolved(ref, name)
            if isinstance(value, Call) and value.name in kinds:
                files[kinds[value.name]] = name
        return files

    def _parts(self, model_file: str) -> tuple[str, ...]:
        """The kind of each module in the recogniser's ModuleList."""
        for key, call in self.params.calls("ModuleList").items():
            lists = [call.arguments] if not isinstance(call.arguments, list) else call.arguments
            modules = lists[0] if len(lists) == 1 and isinstance(lists[0], list) else lists
            parts = tuple(self._part(module, f"{key}[{i}]") for i, module in enumerate(modules))
            if "encoder" in parts:
                if missing := {"encoder", "embedding", "decoder", "ctc", "output"} - set(parts):
                    raise self.params.error(f"{key} has no {' and no '.join(sorted(missing))}")
                return parts
        raise self.params.error(f"no ModuleList with a CRDNN encoder, as {model_file}.ckpt would hold")

    def _part(self, module: Any, where: str) -> str:
        value = self.params.resolved(module, where)
        name = value.name if isinstance(value, Call) else repr(value)
        kinds = {"CRDNN": "encoder", "Embedding": "embedding", "AttentionalRNNDecoder": "decoder"}
        if name in kinds:
            return kinds[name]
        if name != "Linear":
            raise self.params.error(f"{where} ({name}) is not understood")
        key = self.params.key_of(module)
        output = self.params.key_of(self.search.argument("linear")) or "seq_lin"
        return "output" if key == output else "ctc"

    def _features(self) -> FeatureConfig:
        key, call = self._only("features", "Fbank")
        unused: tuple[str, ...] = (
            "requires_grad",
            "left_frames",
            "right_frames",
            "param_change_factor",
            "param_rand_factor",
        )
        known = {
            "sample_rate": 16_000,
            "n_fft": 400,
            "n_mels": 40,
            "f_min": 0,
            "f_max": None,
            "win_length": 25,
            "hop_length": 10,
            "deltas": False,
            "context": False,
            "filter_shape": "triangular",
        }
        given = self.params.arguments(call, key, known, unused)
        self.params.expect(given, key, deltas=False, context=False, filter_shape="triangular", sample_rate=16_000)
        key_of_norm, normalisation = self._only("normalisation", "InputNormalization")
        kinds = {"norm_type": "global", "mean_norm": True, "std_norm": True}
        unused = ("avg_factor", "requires_grad", "update_until_epoch", "device", "epsilon", "length_dim")
        norm = self.params.arguments(normalisation, key_of_norm, kinds, (*unused, "avoid_padding_norm"))
        self.params.expect(norm, key_of_norm, **kinds)

        per_ms = self.params.number(given, key, "sample_rate") / 1000
        return FeatureConfig(
            kind="decibel",
            n_fft=self.params.integer(given, key, "n_fft"),
            n_mels=self.params.integer(given, key, "n_mels"),
            win_length=round(self.params.number(given, key, "win_length") * per_ms),
            hop_length=round(self.params.number(given, key, "hop_length") * per_ms),
            f_min=self.params.number(given, key, "f_min"),
            f_max=8_000.0 if given["f_max"] is None else self.params.number(given, key, "f_max"),
        )

    def _encoder(self) -> EncoderConfig:
        key, call = self._only("encoder", "CRDNN")
        known = {
            "activation": Call("LeakyReLU", None),
            "dropout": 0.15,
            "cnn_blocks": 2,
            "cnn_channels": [128, 256],
            "cnn_kernelsize": [3, 3],
            "time_pooling": False,
            "time_pooling_size": 2,
            "inter_layer_pooling_size": [2, 2],
            "using_2d_pooling": False,
            "rnn_class": Call("LiGRU", None),
            "rnn_layers": 4,
            "rnn_neurons": 512,
            "rnn_bidirectional": True,
            "dnn_blocks": 2,
            "dnn_neurons": 512,
            "projection_dim": -1,
            "use_rnnp": False,
        }
        given = self.params.arguments(
            call, key, known, ("input_size", "input_shape", "rnn_re_init", "freq_pooling_size")
        )
        if not isinstance(given["rnn_class"], Call) or given["rnn_class"].name != "LSTM":
            name = getattr(given["rnn_class"], "name", given["rnn_class"])
            raise self.params.error(f"{key}.rnn_class is {name}: only LSTM is understood")
        blocks = self.params.integer(given, key, "cnn_blocks")
        return EncoderConfig(
            joins=(1,) * self.params.integer(given, key, "rnn_layers"),
            hidden_size=self.params.integer(given, key, "rnn_neurons"),
            bidirectional=bool(given["rnn_bidirectional"]),
            dropout=self.params.number(given, key, "dropout"),
            normalisation="none",
            front=self._front(given, key, blocks),
            projection_size=self.params.integer(given, key, "dnn_neurons") if given["use_rnnp"] else 0,
            dense_layers=self.params.integer(given, key, "dnn_blocks"),
            dense_size=self.params.integer(given, key, "dnn_neurons"),
            activation=self._activation(given["activation"], f"{key}.activation"),
        )

    def _front(self, given: dict[str, Any], key: str, blocks: int) -> FrontConfig:
        pools = self.params.integers(given, key, "inter_layer_pooling_size")[:blocks]
        time_pools = [*pools] if given["using_2d_pooling"] else [1] * len(pools)
        if given["time_pooling"]:
            if not blocks:
                raise self.params.error(f"{key}: pooling over time without convolutions is not understood")
            time_pools[-1] *= self.params.integer(given, key, "time_pooling_size")  # a maximum of maxima
        widths = self.params.integers(given, key, "cnn_kernelsize")
        if len(widths) > 2:
            raise self.params.error(f"{key}.cnn_kernelsize is {given['cnn_kernelsize']}: it must be one or two numbers")
        frequency_width, time_width = widths * 2 if len(widths) == 1 else widths
        projection = self.params.integer(given, key, "projection_dim")
        return FrontConfig(
            channels=self.params.integers(given, key, "cnn_channels")[:blocks],
            time_pools=tuple(time_pools),
            frequency_pools=pools,
            time_width=time_width,
            frequency_width=frequency_width,
            projection_size=0 if projection == -1 else projection,
        )

    def _decoder(self) -> tuple[AttentionConfig, DecoderConfig, float]:
        key, call = self._only("decoder", "AttentionalRNNDecoder")
        known = {
            "rnn_type": None,
            "attn_type": None,
            "hidden_size": None,
            "attn_dim": None,
            "num_layers": 1,
            "input_size": None,
            "scaling": 1.0,
            "channels": 10,
            "kernel_size": 100,
            "bias": True,
            "dropout": 0.0,
        }
        given = self.params.arguments(call, key, known, ("enc_dim", "nonlinearity", "re_init", "normalization"))
        cell, scorer = str(given["rnn_type"]).lower(), str(given["attn_type"]).lower()
        scorers = {"location": "location", "content": "additive"}
        if scorer not in scorers:
            raise self.params.error(f"{key}.attn_type is {scorer}: only location and content are understood")
        if cell not in ("gru", "lstm"):
            raise self.params.error(f"{key}.rnn_type is {cell}: only gru and lstm are understood")
        self.params.expect(given, key, bias=True)
        size = self.params.integer(given, key, "attn_dim")
        attention = AttentionConfig(
            scorer=scorers[scorer],  # type: ignore[arg-type]
            size=size,
            location_channels=self.params.integer(given, key, "channels"),
            location_width=2 * self.params.integer(given, key, "kernel_size") + 1,
            context_size=size,
            start="uniform",
        )
        decoder = DecoderConfig(
            layers=self.params.integer(given, key, "num_layers"),
            hidden_size=self.params.integer(given, key, "hidden_size"),
            embedding_size=self.params.integer(given, key, "input_size"),
            dropout=self.params.number(given, key, "dropout"),
            cell=cell,  # type: ignore[arg-type]
            readout="linear",
        )
        return attention, decoder, self.params.number(given, key, "scaling")

    def _vocab_size(self) -> int:
        for key, call in self.params.calls("Embedding").items():
            given = self.params.arguments(
                call, key, {"num_embeddings": None}, ("embedding_dim", "consider_as_one_hot", "blank_id")
            )
            if isinstance(call.arguments, dict) and call.arguments.get("consider_as_one_hot"):
                raise self.params.error(f"{key}.consider_as_one_hot is not understood")
            return self.params.integer(given, key, "num_embeddings")
        raise self.params.error("no Embedding")

    def _lm(self, vocab_size: int) -> LmConfig | None:
        found = self.params.calls("RNNLM", "TransformerLM")
        if not found:
            return None
        key, call = next(iter(found.items()))
        if call.name == "TransformerLM":
            self.notes.append(
                f"its language model ({key}, {call.name}) is of another kind and left out; to have one, train ours on "
                "text with this model's tokenizer: spellstream train-lm --help"
            )
            return None
        known = {
            "output_neurons": vocab_size,
            "embedding_dim": 128,
            "activation": Call("LeakyReLU", None),
            "dropout": 0.15,
            "rnn_class": Call("LSTM", None),
            "rnn_layers": 2,
            "rnn_neurons": 1024,
            "dnn_blocks": 1,
            "dnn_neurons": 512,
        }
        given = self.params.arguments(call, key, known, ("rnn_re_init", "return_hidden"))
        if not isinstance(given["rnn_class"], Call) or given["rnn_class"].name != "LSTM":
            raise self.params.error(f"{key}.rnn_class: only LSTM is understood")
        return LmConfig(
            vocab_size=self.params.integer(given, key, "output_neurons"),
            embedding_size=self.params.integer(given, key, "embedding_dim"),
            hidden_size=self.params.integer(given, key, "rnn_neurons"),
            layers=self.params.integer(given, key, "rnn_layers"),
            dropout=self.params.number(given, key, "dropout"),
            dense_layers=self.params.integer(given, key, "dnn_blocks"),
            dense_size=self.params.integer(given, key, "dnn_neurons"),
            activation=self._activation(given["activation"], f"{key}.activation"),
        )

    def _specials(self) -> Specials:
        values = {f"{name}_index": 0 for name in Specials._fields} | self.params.values
        return Specials(*(self.params.integer(values, "", f"{name}_index") for name in Specials._fields))

    def _activation(self, value: Any, where: str) -> Activation:
        if not isinstance(value, Call) or value.name not in _ACTIVATIONS or value.arguments:
            name = value.target if isinstance(value, Call) else value
            raise self.params.error(f"{where} is {name}: only {', '.join(_ACTIVATIONS)} are understood")
        return _ACTIVATIONS[value.name]
