"""Settings of a training run, read from a TOML file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from asr.config import (
    AttentionConfig,
    Context,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    SearchConfig,
    from_dict,
    require,
)
from asr.errors import ConfigError
from asr.settings import choices

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "Growth",
    "OptimiserConfig",
    "Stage",
    "TokenizerConfig",
    "TrainConfig",
    "read_config",
    "read_toml",
]


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of a new run: trained on its transcripts, or loaded from `path`.

    A config may give the path in place of the table: `tokenizer = "bpe10k.model"`.
    """

    kind: Literal["bpe", "char"] = "bpe"
    vocab_size: int = 500
    path: str | None = None

    def __post_init__(self) -> None:
        require(self.vocab_size > 4, "tokenizer.vocab_size", self.vocab_size, "more than the 4 special tokens")


@dataclass(frozen=True)
class DataConfig:
    """Selection and batching of utterances. A batch holds up to `batch_seconds` of audio, padding included."""

    batch_seconds: float = 80.0
    min_seconds: float = 0.4
    max_seconds: float = 18.0
    workers: int = 1
    sorted_passes: int = 1  # first passes, sorted from the shortest utterance to the longest

    def __post_init__(self) -> None:
        require(0 < self.min_seconds < self.max_seconds, "data.min_seconds", self.min_seconds, "in 0..max_seconds")
        require(self.batch_seconds >= self.max_seconds, "data.batch_seconds", self.batch_seconds, "max_seconds or more")
        require(self.workers >= 0, "data.workers", self.workers, "at least 0")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation, drawn independently for every batch or utterance. A probability or range of 0 turns a part off."""

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    gain_db: float = 10.0  # up or down
    noise_probability: float = 0.3
    noise_snr_db: tuple[float, ...] = (5.0, 30.0)
    bandwidth_probability: float = 0.3  # of a low-pass filter at a random frequency
    bandwidth_min_hz: float = 3_400.0
    reverb_probability: float = 0.1
    reverb_seconds: tuple[float, ...] = (0.1, 0.6)  # RT60
    codec_probability: float = 0.1
    codec_snr_db: tuple[float, ...] = (6.0, 20.0)  # signal to quantisation noise in each band
    vocal_tract_range: float = 0.0  # scaling of formants, up or down: 0.1 is 0.9 to 1.1
    time_masks: int = 2
    time_mask_frames: int = 40
    time_mask_share: float = 0.15  # longest time mask, as a share of the utterance
    mel_masks: int = 2
    mel_mask_bins: int = 15
    start_step: int = 0  # first step with spectrum masks

    def __post_init__(self) -> None:
        require(all(s > 0 for s in self.speeds), "augment.speeds", self.speeds, "a list of positive factors")
        for name in ("noise_snr_db", "reverb_seconds", "codec_snr_db"):
            span = getattr(self, name)
            require(len(span) == 2 and span[0] <= span[1], f"augment.{name}", span, "a lowest and a highest value")
        require(self.reverb_seconds[0] > 0, "augment.reverb_seconds", self.reverb_seconds, "positive")
        for name in (*(f"{kind}_probability" for kind in ("noise", "bandwidth", "reverb", "codec")), "time_mask_share"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "in [0, 1]")
        require(0 <= self.vocal_tract_range < 0.4, "augment.vocal_tract_range", self.vocal_tract_range, "in [0, 0.4)")
        for name in ("gain_db", "time_masks", "time_mask_frames", "mel_masks", "mel_mask_bins"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW. The learning rate rises for `warmup_steps`, stays, and falls linearly over the last `decay_steps`."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 500
    decay_steps: int = 2_000  # longer than the run: the whole run
    max_steps: int = 20_000
    clip_norm: float = 5.0
    ema_decay: float = 0.999
    max_skipped: int = 100  # the run ends after this many steps in a row without a finite gradient

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimiser.learning_rate", self.learning_rate, "positive")
        require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "at least 0")
        require(self.max_steps > 0, "optimiser.max_steps", self.max_steps, "positive")
        require(self.clip_norm > 0, "optimiser.clip_norm", self.clip_norm, "positive")
        require(self.max_skipped > 0, "optimiser.max_skipped", self.max_skipped, "positive")
        require(self.decay_steps >= 0, "optimiser.decay_steps", self.decay_steps, "at least 0")
        require(0 <= self.ema_decay < 1, "optimiser.ema_decay", self.ema_decay, "in [0, 1)")

    def scale(self, step: int) -> float:
        """Factor of the learning rate at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, max(0.01, (self.max_steps - step) / max(1, min(self.decay_steps, self.max_steps))))
        return rise * fall


@dataclass(frozen=True)
class Growth:
    """A growth stage: an encoder with these `joins` until a step. The last stage has the config's own `encoder`."""

    until_step: int
    joins: tuple[int, ...]


class Stage(NamedTuple):
    """A part of a run with one model architecture."""

    first_step: int
    until_step: int
    encoder: EncoderConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. Each batch draws its context from `chunk_ms` (0: the whole utterance) and `lookahead_ms`."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    streaming: Context = field(default_factory=lambda: Context(chunk_ms=360, lookahead_ms=120))
    speech_db: float | None = None  # as in `ModelConfig`; augment.gain_db varies it in training
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    growth: tuple[Growth, ...] = ()  # shallow and coarse first, then deeper and finer (Zeyer et al. 2018)
    ctc_weight: float = 0.3  # the rest of the loss is the attention decoder's cross-entropy
    ctc_weight_end: float | None = None  # reached linearly after ctc_weight_steps
    ctc_weight_steps: int = 0
    label_smoothing: float = 0.1
    label_smoothing_start_step: int = 0
    sampling_rate: float = 0.1  # scheduled sampling (Bengio et al. 2015)
    sampling_start_step: int = 2_000
    chunk_ms: tuple[int, ...] = (0,)
    lookahead_ms: tuple[int, ...] = (60, 120, 240)
    validate_every: int = 500  # steps
    validate_beam_size: int = 4  # greedy search says little about a young model
    patience: int = 0  # the last growth stage ends after this many measurements without improvement; 0: never
    keep_last: int = 5  # models of the last measurements that are kept for averaging
    keep_best: int = 5  # and of the best measurements
    save_every: int = 200  # steps
    precision: Literal["bf16", "float32"] = "bf16"  # bf16: mixed; weights are float32 in both; see precision.py
    seed: int = 1
    init: str | None = None  # checkpoint to start from; its architecture and tokenizer replace those above
    dropout: float | None = None  # replaces the dropout of `init`'s encoder and decoder
    joins: tuple[int, ...] | None = None  # replaces the joins of `init`: other frame rate, more layers

    def __post_init__(self) -> None:
        require(0 <= self.ctc_weight <= 1, "ctc_weight", self.ctc_weight, "in [0, 1]")
        end = self.ctc_weight_end
        require(end is None or 0 <= end <= 1, "ctc_weight_end", end, "in [0, 1]")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(0 <= self.sampling_rate < 1, "sampling_rate", self.sampling_rate, "in [0, 1)")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        for name in ("dropout", "joins"):
            value = getattr(self, name)
            without = value is None or self.init is not None
            require(without, name, value, "left out without init: set it in [encoder] and [decoder]")
        for name in ("chunk_ms", "lookahead_ms"):
            values = getattr(self, name)
            require(len(values) > 0 and min(values) >= 0, name, values, "a list of one or more numbers, none below 0")
        for name in ("validate_beam_size", "validate_every", "save_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("ctc_weight_steps", "label_smoothing_start_step", "patience", "keep_last", "keep_best"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        choices(self, "precision")
        self._check_growth()

    def _check_growth(self) -> None:
        if not self.growth:
            return
        require(self.init is None, "init", self.init, "left out with growth: a run can have one of the two")
        steps = [0, *(g.until_step for g in self.growth), self.optimiser.max_steps]
        ascending = all(a < b for a, b in pairwise(steps))
        require(ascending, "growth: until_step", steps[1:-1], f"ascending, in 1..{steps[-1] - 1} (optimiser.max_steps)")
        depths = [len(stage.encoder.joins) for stage in self.stages()]
        require(
            depths == sorted(depths), "growth: joins", [g.joins for g in self.growth], "lists that never get shorter"
        )

    def stages(self) -> list[Stage]:
        """The run's stages in order; a single one without growth."""
        encoders = [dataclasses.replace(self.encoder, joins=g.joins) for g in self.growth] + [self.encoder]
        ends = [*(g.until_step for g in self.growth), self.optimiser.max_steps]
        return [Stage(*stage) for stage in zip([0, *ends[:-1]], ends, encoders, strict=True)]

    def ctc_weight_at(self, step: int) -> float:
        """Weight of the CTC loss at a step."""
        if self.ctc_weight_end is None:
            return self.ctc_weight
        gone = min(1.0, step / self.ctc_weight_steps) if self.ctc_weight_steps else 1.0
        return self.ctc_weight + gone * (self.ctc_weight_end - self.ctc_weight)


def read_config(path: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file. It overrides the file that it extends; `settings` override both.

    Args:
        path: the file. `extends = "base.toml"` in it, relative to its folder, names a file with defaults.
        settings: `key=value` each, such as `optimiser.max_steps=100`; the value in TOML, otherwise a plain string.

    Raises:
        ConfigError: if the file is missing, not TOML, or has an unknown setting; or if the file it extends extends
            another one. Names the file.
    """
    data = read_toml(path)
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: extends is {base!r}: it must be the path of one file")
        below = path.parent / base
        under = read_toml(below)
        if "extends" in under:
            raise ConfigError(f"{path} extends {below}, which extends {under['extends']}: only one level is allowed")
        data = _merged(under, data)
    for setting in settings:
        data = _merged(data, _parse_setting(setting))
    if isinstance(data.get("tokenizer"), str):
        data["tokenizer"] = {"path": data["tokenizer"]}
    try:
        return from_dict(TrainConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a ConfigError names one that cannot be read."""
    try:
        return _parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
    data: dict[str, Any] = tomllib.loads(text)
    return data


def _parse_setting(setting: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": 1}}`."""
    key, equals, text = setting.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"{setting!r} is not a setting: write key=value, such as optimiser.max_steps=100")
    try:
        value = _parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both tables merged recursively; values of `over` win."""
    result = dict(under)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(name), dict)
        result[name] = _merged(under[name], value) if both else value
    return result
