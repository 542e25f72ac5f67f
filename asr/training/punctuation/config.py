"""Settings of a training run of the punctuation tagger, read from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from asr.config import PunctuationConfig, require
from asr.training.saved_run import RunConfig

__all__ = ["SHORTEST_PAUSE_SECONDS", "ErrorConfig", "PauseConfig", "PunctuationTrainConfig"]

SHORTEST_PAUSE_SECONDS = 0.05  # a shorter silence is no pause


@dataclass(frozen=True)
class ErrorConfig:
    """Recognition errors simulated in the text, so that the tagger is robust to real ones.

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

    The last three are those of the shipped model on read speech, by `recipes.punctuation.measure`.
    """

    unknown: float = 0.5  # share of rows without pauses, as where word times are off
    unrelated: float = 0.1  # share of rows whose pauses are unrelated to the marks
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
class PunctuationTrainConfig(RunConfig):
    """Settings of a run. The defaults suit half an hour to two hours on a CPU core."""

    model: PunctuationConfig = field(default_factory=PunctuationConfig)
    errors: ErrorConfig = field(default_factory=ErrorConfig)
    pauses: PauseConfig = field(default_factory=PauseConfig)
    batch_words: int = 4_096  # padding included
    passes: float = 3.0  # over the whole text
    case_weight: float = 0.5  # weight of the loss of the cases, relative to that of the marks

    adam_betas: ClassVar[tuple[float, float]] = (0.9, 0.98)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch_words >= 256, "batch_words", self.batch_words, "at least 256")
        require(self.case_weight > 0, "case_weight", self.case_weight, "positive")

    def same_model(self, other: PunctuationTrainConfig) -> bool:
        return self.model == other.model
