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
    """Settings of a run. The defaults suit one or two hours on a CPU core, with text that is read at most once."""

    embedding_size: int = 256
    hidden_size: int = 640
    layers: int = 1
    dropout: float = 0.0  # for small texts with several passes
    batch_tokens: int = 5_120  # padding included
    max_tokens: int = 128  # longer sentences are split
    held_out: float = 0.005  # share at the end of each text that is held out, unless a text is given for that
    passes: float = 1.0  # over the whole text
    learning_rate: float = 3e-3  # Adam, of the embedding, the projection and biases
    matrix_rate: float = 0.015  # Muon, of the LSTM's matrices; both fall linearly to zero after the warm-up
    warmup_steps: int = 200
    clip_norm: float = 1.0
    validate_every: int = 500  # steps
    save_every: int = 100  # steps
    seed: int = 1

    def __post_init__(self) -> None:
        self.model(5)
        require(self.max_tokens > 1, "max_tokens", self.max_tokens, "at least 2")
        require(self.batch_tokens >= self.max_tokens, "batch_tokens", self.batch_tokens, "max_tokens or more")
        require(0 < self.held_out < 1, "held_out", self.held_out, "in (0, 1)")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        for name in ("passes", "learning_rate", "matrix_rate", "clip_norm", "validate_every", "save_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")

    def model(self, vocab_size: int) -> LmConfig:
        """Config of the model for a vocabulary of this size."""
        return LmConfig(vocab_size, self.embedding_size, self.hidden_size, self.layers, self.dropout)

    def rate_share(self, step: int, progress: float) -> float:
        """Share of the learning rates at a step; `progress` is the share of the run that is done, 0 to 1."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * max(0.0, 1.0 - progress)


def read_lm_config(path: Path) -> LmTrainConfig:
    """Read a TOML file.

    Raises:
        ConfigError: if the file is missing, not TOML, or has an unknown setting; names the file.
    """
    data = read_toml(path)
    try:
        return from_dict(LmTrainConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
