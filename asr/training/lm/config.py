"""Settings of a language model's training run, read from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass

from asr.config import LmConfig, require
from asr.training.saved_run import RunConfig

__all__ = ["LmTrainConfig"]


@dataclass(frozen=True)
class LmTrainConfig(RunConfig):
    """Settings of a run. The defaults suit one or two hours on a CPU core, with each text read at most once."""

    embedding_size: int = 256
    hidden_size: int = 640
    layers: int = 1
    dropout: float = 0.0  # for small texts with several passes
    batch_tokens: int = 5_120  # padding included
    max_tokens: int = 128  # longer sentences are split
    warmup_steps: int = 200
    validate_every: int = 500  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model(5)
        require(self.max_tokens > 1, "max_tokens", self.max_tokens, "at least 2")
        require(self.batch_tokens >= self.max_tokens, "batch_tokens", self.batch_tokens, "max_tokens or more")

    def model(self, vocab_size: int) -> LmConfig:
        """Config of the model for a vocabulary of this size."""
        return LmConfig(vocab_size, self.embedding_size, self.hidden_size, self.layers, self.dropout)

    def same_model(self, other: LmTrainConfig) -> bool:
        return self.model(5) == other.model(5)
