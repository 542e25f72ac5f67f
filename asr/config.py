"""Configs: frozen dataclasses, checked at construction and stored as JSON beside the weights.

`to_dict` and `from_dict` of `asr/settings.py` convert them to plain data and back. A value out of bounds raises a
`ConfigError` that names the setting.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from asr.settings import choices, from_dict, require, to_dict

__all__ = [
    "Activation",
    "AttentionConfig",
    "Context",
    "DecoderConfig",
    "EncoderConfig",
    "FeatureConfig",
    "FrontConfig",
    "HybridConfig",
    "LmConfig",
    "ModelConfig",
    "PunctuationConfig",
    "SearchConfig",
    "from_dict",
    "require",
    "to_dict",
    "usable_cores",
]

AttentionKind = Literal["location", "additive", "dot", "scaled_dot", "multi_head"]
Activation = Literal["relu", "leaky_relu", "tanh", "gelu"]


def usable_cores() -> int:
    """Number of cores that this process may use; a container or scheduler may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class FeatureConfig:
    """The log-mel frontend; lengths are in samples of `sample_rate`.

    The kinds are those of `asr/model/features.py`: "log_mel", and "decibel", which is SpeechBrain's Fbank.
    """

    kind: Literal["log_mel", "decibel"] = "log_mel"
    sample_rate: int = 16_000
    n_fft: int = 512
    win_length: int = 400  # 25 ms
    hop_length: int = 160  # 10 ms
    n_mels: int = 80
    f_min: float = 20.0
    f_max: float = 8_000.0

    def __post_init__(self) -> None:
        require(self.sample_rate > 0, "features.sample_rate", self.sample_rate, "positive")
        require(0 < self.win_length <= self.n_fft, "features.win_length", self.win_length, "in 1..n_fft")
        require(0 < self.hop_length <= self.n_fft, "features.hop_length", self.hop_length, "in 1..n_fft")
        require(self.n_mels > 0, "features.n_mels", self.n_mels, "positive")
        require(0 <= self.f_min < self.f_max, "features.f_min", self.f_min, "at least 0 and below f_max")
        require(self.f_max <= self.sample_rate / 2, "features.f_max", self.f_max, "at most half the sample_rate")

        choices(self, "kind")
        spaced = not self.centred or 2 * self.hop_length < self.n_fft
        require(spaced, "features.hop_length", self.hop_length, "below half of n_fft for this kind")

    @property
    def hop_ms(self) -> float:
        return 1000 * self.hop_length / self.sample_rate

    @property
    def centred(self) -> bool:
        """Whether frame t is centred on sample `t * hop_length`; otherwise it begins there."""
        return self.kind == "decibel"

    @property
    def lookahead_samples(self) -> int:
        """Samples that a frame needs beyond its hop."""
        return max(0, (self.n_fft // 2 if self.centred else self.n_fft) - self.hop_length)

    @property
    def first_centre_seconds(self) -> float:
        """Time of the middle of the first frame."""
        return 0.0 if self.centred else self.n_fft / 2 / self.sample_rate


@dataclass(frozen=True)
class Context:
    """Amount of future audio that the encoder sees.

    With `chunk_ms` None it sees the whole utterance. Otherwise forward LSTMs carry their state from chunk to chunk, and
    backward LSTMs start from a zero state in every chunk of `chunk_ms` (latency-controlled BLSTM, Zhang et al. 2016).
    The lowest layer also sees `lookahead_ms` after the chunk. Both lengths are rounded up to whole frames;
    `Context.causal()` is the smallest context, one frame without lookahead.
    """

    chunk_ms: int | None = None
    lookahead_ms: int = 0

    def __post_init__(self) -> None:
        require(self.chunk_ms is None or self.chunk_ms > 0, "context.chunk_ms", self.chunk_ms, "positive, or null")
        require(self.lookahead_ms >= 0, "context.lookahead_ms", self.lookahead_ms, "at least 0")

    @classmethod
    def full(cls) -> Context:
        return cls(chunk_ms=None)

    @classmethod
    def causal(cls) -> Context:
        return cls(chunk_ms=1, lookahead_ms=0)


@dataclass(frozen=True)
class HybridConfig:
    """Blocks of LSTM and self-attention on top of the pyramid; none if `layers` is 0."""

    layers: int = 0
    heads: int = 4
    past_frames: int = 128  # number of earlier frames attended to; bounds the memory of a stream
    positions: Literal["none", "sinusoidal", "rotary"] = "rotary"

    def __post_init__(self) -> None:
        require(self.layers >= 0, "hybrid.layers", self.layers, "at least 0")
        require(self.heads > 0, "hybrid.heads", self.heads, "positive")
        require(self.past_frames > 0, "hybrid.past_frames", self.past_frames, "positive")
        choices(self, "positions")


@dataclass(frozen=True)
class FrontConfig:
    """Convolutional front, as in VGG-BLSTM and CRDNN: a block of two 2-D convolutions for each of `channels`.

    Each convolution is followed by normalisation and activation, each block by max pooling of `time_pools[i]` frames
    and `frequency_pools[i]` bins; leftover frames and bins are dropped.
    """

    channels: tuple[int, ...] = ()  # none: no front
    time_pools: tuple[int, ...] = ()
    frequency_pools: tuple[int, ...] = ()
    time_width: int = 3
    frequency_width: int = 3
    normalisation: Literal["none", "layer"] = "layer"
    projection_size: int = 0  # output of a linear layer with normalisation and activation after the blocks; 0: none

    def __post_init__(self) -> None:
        for name in ("time_pools", "frequency_pools"):
            pools, blocks = getattr(self, name), len(self.channels)
            require(len(pools) == blocks, f"front.{name}", pools, f"a factor for each of the {blocks} blocks")
            require(all(1 <= pool <= 8 for pool in pools), f"front.{name}", pools, "factors in 1..8")
        require(all(n > 0 for n in self.channels), "front.channels", self.channels, "positive numbers")
        for name in ("time_width", "frequency_width"):
            width = getattr(self, name)
            require(width > 0 and width % 2 == 1, f"front.{name}", width, "positive and odd")
        require(self.projection_size >= 0, "front.projection_size", self.projection_size, "at least 0")
        choices(self, "normalisation")

    @property
    def reduction(self) -> int:
        return math.prod(self.time_pools)


@dataclass(frozen=True)
class EncoderConfig:
    """The pyramidal LSTM. Before layer i, each `joins[i]` neighbouring frames are joined into one.

    A convolutional front may come before it, and dense layers after it.
    """

    joins: tuple[int, ...] = (2, 2, 1, 1)
    hidden_size: int = 320
    bidirectional: bool = True
    dropout: float = 0.2
    residual: bool = False
    normalisation: Literal["none", "layer", "batch"] = "layer"
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    front: FrontConfig = field(default_factory=FrontConfig)
    projection_size: int = 0  # of a linear layer after each LSTM layer; 0: none
    dense_layers: int = 0  # linear layers with batch normalisation and activation
    dense_size: int = 512
    activation: Activation = "leaky_relu"  # of the front and of the dense layers

    def __post_init__(self) -> None:
        require(len(self.joins) > 0, "encoder.joins", self.joins, "a factor for each layer, at least one")
        require(all(1 <= j <= 8 for j in self.joins), "encoder.joins", self.joins, "factors in 1..8")
        require(1 <= self.reduction <= 32, "encoder.joins", self.joins, "factors whose product is in 1..32, pools too")
        require(self.hidden_size > 0, "encoder.hidden_size", self.hidden_size, "positive")
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "in [0, 1)")
        require(
            self.hybrid.layers == 0 or self.layer_size % (2 * self.hybrid.heads) == 0,
            "encoder.hybrid.heads",
            self.hybrid.heads,
            f"a divisor of half the encoder's output size {self.layer_size}",
        )
        for name, least in (("projection_size", 0), ("dense_layers", 0), ("dense_size", 1)):
            require(getattr(self, name) >= least, f"encoder.{name}", getattr(self, name), f"at least {least}")
        for name in ("normalisation", "activation"):
            choices(self, name)

    @property
    def reduction(self) -> int:
        return math.prod(self.joins) * self.front.reduction

    @property
    def layer_size(self) -> int:
        """Size of the output of each LSTM layer."""
        return self.projection_size or self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def output_size(self) -> int:
        return self.dense_size if self.dense_layers else self.layer_size


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of the decoder over the encoder output."""

    scorer: AttentionKind = "location"
    size: int = 256
    heads: int = 1  # more than one only with the multi_head scorer
    location_channels: int = 10
    location_width: int = 101
    window_frames: int | None = None  # limits attention to this distance from the previous peak
    context_size: int = 0  # size of a projection of the encoder output; 0: none
    start: Literal["zero", "uniform"] = "zero"  # the alignment before the first token

    def __post_init__(self) -> None:
        require(self.size > 0, "attention.size", self.size, "positive")
        require(self.heads > 0, "attention.heads", self.heads, "positive")
        require(self.heads == 1 or self.scorer == "multi_head", "attention.heads", self.heads, "1 for this scorer")
        require(self.size % self.heads == 0, "attention.heads", self.heads, f"a divisor of size {self.size}")
        require(self.location_channels > 0, "attention.location_channels", self.location_channels, "positive")
        width = self.location_width
        require(width > 0 and width % 2 == 1, "attention.location_width", width, "positive and odd")
        window = self.window_frames
        require(window is None or window > 0, "attention.window_frames", window, "positive, or null")
        size = self.context_size
        require(
            size == 0 or (size > 0 and self.scorer != "multi_head"), "attention.context_size", size, "0, or positive"
        )
        for name in ("scorer", "start"):
            choices(self, name)


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder: LSTM or GRU cells with input feeding."""

    layers: int = 1
    hidden_size: int = 512
    embedding_size: int = 256
    dropout: float = 0.2
    cell: Literal["lstm", "gru"] = "lstm"
    readout: Literal["tanh", "linear"] = "tanh"  # combination of the cells' output and the context

    def __post_init__(self) -> None:
        require(self.layers > 0, "decoder.layers", self.layers, "positive")
        require(self.hidden_size > 0, "decoder.hidden_size", self.hidden_size, "positive")
        require(self.embedding_size > 0, "decoder.embedding_size", self.embedding_size, "positive")
        require(0 <= self.dropout < 1, "decoder.dropout", self.dropout, "in [0, 1)")
        for name in ("cell", "readout"):
            choices(self, name)


@dataclass(frozen=True)
class SearchConfig:
    """Weights and limits of the search; a checkpoint's config.json has the values tuned for it."""

    beam_size: int = 8
    # Hypotheses more than this below the best live one are dropped; with length_normalisation, also those more than
    # this below the best total score of a finished one. 0: none is dropped.
    beam_margin: float = 0.0
    nbest: int = 1
    ctc_weight: float = 0.3  # the decoder's weight is 1 minus this
    lm_weight: float = 0.0
    internal_lm_share: float = 0.0  # fraction of lm_weight used to subtract the decoder's internal LM
    length_bonus: float = 0.0  # added for each token
    hotword_weight: float = 0.5  # bonus of a hotword per letter, with eight letters added to its length
    hotword_margin: float = 2.0  # how far a hotword's CTC path may score below the best path, per unit of that bonus
    coverage_penalty: float = 0.0  # for encoder frames whose total attention exceeds `coverage_threshold`
    coverage_threshold: float = 1.5
    coverage_mean: bool = False  # count the penalty at every token, averaged over the tokens so far
    temperature: float = 1.0  # divides the decoder's logits
    lm_temperature: float = 1.0  # divides the language model's
    length_normalisation: bool = False  # finished hypotheses are compared by their score per token
    eos_threshold: float = 1.5  # eos needs at least this factor times the log-probability of the best other token
    candidates: int = 16  # tokens per hypothesis that the CTC scorer scores
    max_tokens_per_second: float = 12.0
    max_repeats: int = 4  # consecutive repetitions of a phrase; more than this count as a loop

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, f"search.{name}", value, "a finite number")
        require(1 <= self.beam_size <= 256, "search.beam_size", self.beam_size, "in 1..256")
        require(self.beam_margin >= 0, "search.beam_margin", self.beam_margin, "at least 0")
        require(1 <= self.nbest <= self.beam_size, "search.nbest", self.nbest, f"in 1..beam_size ({self.beam_size})")
        require(0 <= self.ctc_weight <= 1, "search.ctc_weight", self.ctc_weight, "in [0, 1]")
        for name in ("lm_weight", "internal_lm_share"):
            require(getattr(self, name) >= 0, f"search.{name}", getattr(self, name), "at least 0")
        require(0 <= self.hotword_weight <= 10, "search.hotword_weight", self.hotword_weight, "in 0..10")
        require(self.hotword_margin > 0, "search.hotword_margin", self.hotword_margin, "positive")
        # After the subtraction the scores are not a distribution, so a temperature has no meaning.
        needed = self.internal_lm_share == 0 or self.lm_temperature == 1
        require(needed, "search.lm_temperature", self.lm_temperature, "1 with internal_lm_share")
        for name in ("temperature", "lm_temperature"):
            require(0 < getattr(self, name) <= 100, f"search.{name}", getattr(self, name), "above 0, at most 100")
        require(self.coverage_penalty >= 0, "search.coverage_penalty", self.coverage_penalty, "at least 0")
        require(self.eos_threshold >= 0, "search.eos_threshold", self.eos_threshold, "at least 0")
        require(self.candidates >= 1, "search.candidates", self.candidates, "at least 1")
        require(self.max_tokens_per_second > 0, "search.max_tokens_per_second", self.max_tokens_per_second, "positive")
        require(self.max_repeats >= 1, "search.max_repeats", self.max_repeats, "at least 1")


@dataclass(frozen=True)
class LmConfig:
    """The language model for shallow fusion."""

    vocab_size: int
    embedding_size: int = 256
    hidden_size: int = 512
    layers: int = 2
    dropout: float = 0.2
    dense_layers: int = 0  # with layer normalisation and activation, before an output layer with its own weights
    dense_size: int = 512  # without dense layers, the output layer shares the embedding's weights
    activation: Activation = "leaky_relu"

    def __post_init__(self) -> None:
        require(self.vocab_size > 4, "lm.vocab_size", self.vocab_size, "more than the 4 special tokens")
        require(self.embedding_size > 0, "lm.embedding_size", self.embedding_size, "positive")
        require(self.hidden_size > 0, "lm.hidden_size", self.hidden_size, "positive")
        require(self.layers > 0, "lm.layers", self.layers, "positive")
        require(self.dense_layers >= 0, "lm.dense_layers", self.dense_layers, "at least 0")
        require(self.dense_size > 0, "lm.dense_size", self.dense_size, "positive")
        choices(self, "activation")
        require(0 <= self.dropout < 1, "lm.dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class PunctuationConfig:
    """The tagger for punctuation and capitals."""

    marks: tuple[str, ...] = ("", ",", ".", "?", "!", ":")
    words: int = 16_000  # most frequent words with an embedding of their own
    buckets: int = 6_000  # embeddings of hashed word pieces, used for all words
    embedding_size: int = 128
    pause_size: int = 16
    hidden_size: int = 256  # in each direction
    layers: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(len(set(self.marks)) == len(self.marks) > 1, "punctuation.marks", self.marks, "two or more, each once")
        require(self.marks[0] == "", "punctuation.marks[0]", self.marks[0], "empty, which is no mark")
        require(self.buckets > 1, "punctuation.buckets", self.buckets, "at least 2")
        for name in ("words", "embedding_size", "pause_size", "hidden_size", "layers"):
            require(getattr(self, name) > 0, f"punctuation.{name}", getattr(self, name), "positive")
        require(0 <= self.dropout < 1, "punctuation.dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a model, with the search and streaming settings tuned for it."""

    vocab_size: int
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    streaming: Context = field(default_factory=lambda: Context(chunk_ms=360, lookahead_ms=120))
    speech_db: float | None = None  # level of speech in dB re full scale that the model expects; None: any

    def __post_init__(self) -> None:
        require(self.vocab_size > 4, "vocab_size", self.vocab_size, "more than the 4 special tokens")
        require(self.speech_db is None or -60 <= self.speech_db <= 0, "speech_db", self.speech_db, "in -60..0, or null")
        pools = math.prod(self.encoder.front.frequency_pools)
        require(self.features.n_mels >= pools, "features.n_mels", self.features.n_mels, f"at least the {pools} pooled")

    @property
    def frame_seconds(self) -> float:
        """Duration of one frame of the encoder output."""
        return self.features.hop_ms * self.encoder.reduction / 1000
