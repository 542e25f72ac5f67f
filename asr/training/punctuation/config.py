"""Settings of a training run of the punctuation tagger, read from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from asr.config import PunctuationConfig, from_dict, require
from asr.errors import ConfigError
from asr.training.config import read_toml

__all__ = ["ErrorConfig", "PauseConfig", "PunctuationTrainConfig", "read_punctuation_config"]


@dataclass(frozen=True)
class ErrorConfig:
    """Errors of a recogniser that are made in the text, so that the tagger keeps its head at real ones.

    The rates are those of the shipped model on read books and prompts, by `recipes.punctuation.measure`.
    """

    clean: float = 0.6  # share of rows without errors; the others have up to twice the rates below
    substituted: float = 0.15  # of words
    deleted: float = 0.015
    inserted: float = 0.02

    def __post_init__(self) -> None:
        for name in ("clean", "substituted", "deleted", "inserted"):
            require(
                0 <= getattr(self, name) <= 0.5 or name == "clean", f"errors.{name}", getattr(self, name), "0 to 0.5"
            )
        require(0 <= self.clean <= 1, "errors.clean", self.clean, "in [0, 1]")


@dataclass(frozen=True)
class PauseConfig:
    """Pauses drawn for the words of a row.

    Those of words are the shipped model's on people reading, by `recipes.punctuation.measure`.
    """

    unknown: float = 0.5  # share of rows without pauses, as where word times are off
    unrelated: float = 0.1  # share of rows whose pauses have nothing to do with the marks
    cut_seconds: float = 0.6  # a segment ends at a pause of this length
    # Median pause in seconds (log-normal), spread in log units, and share of words with a pause at all.
    plain: tuple[float, ...] = (0.11, 0.45, 0.05)
    comma: tuple[float, ...] = (0.25, 0.73, 0.68)
    end: tuple[float, ...] = (0.65, 0.52, 0.93)

    def __post_init__(self) -> None:
        for name in ("plain", "comma", "end"):
            values = getattr(self, name)
            require(len(values) == 3 and min(values) > 0, f"pauses.{name}", values, "median, spread and share")
        require(
            0 <= self.unknown + self.unrelated <= 1, "pauses.unknown", self.unknown, "a share, with unrelated at most 1"
        )


@dataclass(frozen=True)
class PunctuationTrainConfig:
    """Settings of a run. The defaults suit half an hour to two hours on a CPU core."""

    model: PunctuationConfig = field(default_factory=PunctuationConfig)
    errors: ErrorConfig = field(default_factory=ErrorConfig)
    pauses: PauseConfig = field(default_factory=PauseConfig)
    batch_words: int = 4_096  # padding included
    held_out: float = 0.005  # share at the end of each text that is measured on
    passes: float = 3.0  # over the whole text
    learning_rate: float = 3e-3  # Adam, of the embeddings and heads
    matrix_rate: float = 0.015  # Muon, of the LSTMs' matrices; both fall linearly to zero after the warm-up
    warmup_steps: int = 100
    clip_norm: float = 1.0
    case_weight: float = 0.5  # of the loss of the forms, next to that of the marks
    validate_every: int = 200  # steps
    save_every: int = 100  # steps
    seed: int = 1

    def __post_init__(self) -> None:
        require(self.batch_words >= 256, "batch_words", self.batch_words, "at least 256")
        require(0 < self.held_out < 1, "held_out", self.held_out, "in (0, 1)")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        for name in ("passes", "learning_rate", "matrix_rate", "clip_norm", "case_weight"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("validate_every", "save_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")

    def rate_share(self, step: int, progress: float) -> float:
        """Share of the learning rates at a step; `progress` is the share of the run that is done, 0 to 1."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * max(0.0, 1.0 - progress)


def read_punctuation_config(path: Path) -> PunctuationTrainConfig:
    """Read a TOML file.

    Raises:
        ConfigError: if the file is missing, not TOML, or has an unknown setting; names the file.
    """
    data = read_toml(path)
    try:
        return from_dict(PunctuationTrainConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
