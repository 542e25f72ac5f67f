"""Settings of a language model's training run, read from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr.config import LmConfig, from_dict, require
from asr.errors import ConfigError
from asr.training.config import read_toml

__all__ = ["LmTrainConfig", "read_lm_config"]


@dataclass(frozen=True)
class LmTrainConfig:
    """A whole run. The defaults suit an hour or two on one CPU core: a text of which no sentence is seen twice."""

    embedding_size: int = 256
    hidden_size: int = 640
    layers: int = 1
    dropout: float = 0.0  # for small texts that are read again and again
    batch_tokens: int = 5_120  # padding included
    max_tokens: int = 128  # longer sentences are cut into pieces
    held_out: float = 0.005  # the share at each text's end that perplexity is measured on, without a text for that
    passes: float = 1.0  # over all of the text
    learning_rate: float = 4e-3  # AdamW; after the warm-up it falls along a straight line to zero at the run's end
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    validate_every: int = 500  # steps
    save_every: int = 100  # steps
    seed: int = 1

    def __post_init__(self) -> None:
        self.model(5)
        require(self.max_tokens > 1, "max_tokens", self.max_tokens, "at least 2")
        require(self.batch_tokens >= self.max_tokens, "batch_tokens", self.batch_tokens, "max_tokens or more")
        require(0 < self.held_out < 1, "held_out", self.held_out, "in (0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        for name in ("passes", "learning_rate", "clip_norm", "validate_every", "save_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")

    def model(self, vocab_size: int) -> LmConfig:
        """The model over so many tokens."""
        return LmConfig(vocab_size, self.embedding_size, self.hidden_size, self.layers, self.dropout)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate at a step, when `progress` (0 to 1) of the run is over."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * rise * max(0.0, 1.0 - progress)


def read_lm_config(path: Path) -> LmTrainConfig:
    """Read a TOML file.

    Raises:
        ConfigError: if it is missing, not TOML, or holds a setting that is none; names the file.
    """
    data = read_toml(path)
    try:
        return from_dict(LmTrainConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
