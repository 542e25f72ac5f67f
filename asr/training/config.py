"""Settings of a training run, read from a TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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

__all__ = ["AugmentConfig", "DataConfig", "OptimiserConfig", "TokenizerConfig", "TrainConfig", "read_config"]


@dataclass(frozen=True)
class TokenizerConfig:
    """What is learned from the training transcripts when a run starts from nothing."""

    kind: Literal["bpe", "char"] = "bpe"
    vocab_size: int = 500

    def __post_init__(self) -> None:
        require(self.vocab_size > 4, "tokenizer.vocab_size", self.vocab_size, "more than the 4 special tokens")


@dataclass(frozen=True)
class DataConfig:
    """Which utterances, in what batches. A batch holds up to `batch_seconds` of audio, padding included."""

    batch_seconds: float = 80.0
    min_seconds: float = 0.4
    max_seconds: float = 18.0
    workers: int = 1
    sorted_passes: int = 1  # passes that go from the shortest utterances to the longest

    def __post_init__(self) -> None:
        require(0 < self.min_seconds < self.max_seconds, "data.min_seconds", self.min_seconds, "in 0..max_seconds")
        require(self.batch_seconds >= self.max_seconds, "data.batch_seconds", self.batch_seconds, "max_seconds or more")
        require(self.workers >= 0, "data.workers", self.workers, "at least 0")


@dataclass(frozen=True)
class AugmentConfig:
    """Each is drawn afresh for every batch or utterance; probabilities and ranges of 0 turn a part off."""

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    gain_db: float = 10.0  # up or down
    noise_probability: float = 0.3
    noise_snr_db: tuple[float, ...] = (5.0, 30.0)
    bandwidth_probability: float = 0.3  # of losing what lies above a random frequency
    bandwidth_min_hz: float = 3_400.0
    time_masks: int = 2
    time_mask_frames: int = 40
    time_mask_share: float = 0.15  # of an utterance, at the most, for each mask
    mel_masks: int = 2
    mel_mask_bins: int = 15
    start_step: int = 0  # spectrum masks wait until the model has begun to learn

    def __post_init__(self) -> None:
        require(all(s > 0 for s in self.speeds), "augment.speeds", self.speeds, "a list of positive factors")
        snr = self.noise_snr_db
        require(len(snr) == 2 and snr[0] <= snr[1], "augment.noise_snr_db", snr, "the lowest and the highest")
        for name in ("noise_probability", "bandwidth_probability", "time_mask_share"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "in [0, 1]")
        for name in ("gain_db", "time_masks", "time_mask_frames", "mel_masks", "mel_mask_bins"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW; the rate rises for `warmup_steps`, holds, and falls along a straight line in the last `decay_steps`."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 500
    decay_steps: int = 2_000
    max_steps: int = 20_000
    clip_norm: float = 5.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimiser.learning_rate", self.learning_rate, "positive")
        require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "at least 0")
        require(self.max_steps > 0, "optimiser.max_steps", self.max_steps, "positive")
        require(self.clip_norm > 0, "optimiser.clip_norm", self.clip_norm, "positive")
        require(self.decay_steps <= self.max_steps, "optimiser.decay_steps", self.decay_steps, "at most max_steps")
        require(0 <= self.ema_decay < 1, "optimiser.ema_decay", self.ema_decay, "in [0, 1)")

    def scale(self, step: int) -> float:
        """What the learning rate is multiplied with at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, max(0.01, (self.max_steps - step) / max(1, self.decay_steps)))
        return rise * fall


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. `chunk_ms`: what a batch's context is drawn from; 0 stands for the whole utterance."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    streaming: Context = field(default_factory=lambda: Context(chunk_ms=360, lookahead_ms=120))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1
    sampling_rate: float = 0.1  # scheduled sampling
    sampling_start_step: int = 2_000
    chunk_ms: tuple[int, ...] = (0,)
    lookahead_ms: tuple[int, ...] = (60, 120, 240)
    validate_every: int = 500  # steps
    validate_beam_size: int = 4  # greedy search says little of a young model: CTC in the beam holds it up
    save_every: int = 200  # steps
    seed: int = 1
    init: str | None = None  # a checkpoint to start from: its weights, tokenizer and kind of model, not those above

    def __post_init__(self) -> None:
        require(0 <= self.ctc_weight <= 1, "ctc_weight", self.ctc_weight, "in [0, 1]")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(0 <= self.sampling_rate < 1, "sampling_rate", self.sampling_rate, "in [0, 1)")
        for name in ("chunk_ms", "lookahead_ms"):
            values = getattr(self, name)
            require(len(values) > 0 and min(values) >= 0, name, values, "a list of at least one, none below 0")
        require(self.validate_beam_size > 0, "validate_beam_size", self.validate_beam_size, "positive")
        require(self.validate_every > 0, "validate_every", self.validate_every, "positive")
        require(self.save_every > 0, "save_every", self.save_every, "positive")


def read_config(path: Path) -> TrainConfig:
    """Read a TOML file.

    Raises:
        ConfigError: if it is missing, not TOML, or holds a setting that is none; names the file.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return from_dict(TrainConfig, data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
