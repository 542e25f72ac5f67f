"""Settings for fine-tuning a model on your own recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr import checkpoint
from asr.config import to_dict
from asr.training.config import TrainConfig, read_config

__all__ = ["settings", "verdict"]

_DEFAULTS = Path(__file__).with_name("finetune.toml")


def settings(model: str, given: Sequence[str] = ()) -> TrainConfig:
    """The settings of `finetune.toml` for a shipped model or a checkpoint folder; `given` overrides them (`key=value`).

    Raises:
        CheckpointError: if the model does not exist.
        ConfigError: if a setting is unknown.
    """
    own = checkpoint.load(model).model.config
    derived = {f"search.{name}": value for name, value in to_dict(own.search).items()}
    derived |= {f"streaming.{name}": value for name, value in to_dict(own.streaming).items() if value is not None}
    derived |= {"init": model, "chunk_ms": [0, own.streaming.chunk_ms or 0]}
    derived |= {"lookahead_ms": [own.streaming.lookahead_ms]}
    return read_config(_DEFAULTS, [*(f"{name}={json.dumps(value)}" for name, value in derived.items()), *given])


def verdict(measured: Mapping[int, Mapping[str, float]]) -> str:
    """A line that compares the fine-tuned model with the one it started from."""
    best = min(measured, key=lambda step: (measured[step]["wer"], step))
    if 0 not in measured:  # a run of `train`, which does not measure its initial model
        return f"WER on dev: {100 * measured[best]['wer']:.1f} % after {best} steps"
    before, after = 100 * measured[0]["wer"], 100 * measured[best]["wer"]
    if best == 0:
        return f"WER on dev: {before:.1f} % before; no measurement was better, so best/ is the initial model"
    return f"WER on dev: {before:.1f} % before, {after:.1f} % after {best} steps"
