"""Settings with which a model is trained further on somebody's own recordings."""

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
    """What `finetune.toml` says, for a shipped model or a checkpoint folder; `given` are `key=value` settings over it.

    Raises:
        CheckpointError: if there is no such model.
        ConfigError: if a setting is none.
    """
    own = checkpoint.load(model).model.config
    derived = {f"search.{name}": value for name, value in to_dict(own.search).items()}
    derived |= {f"streaming.{name}": value for name, value in to_dict(own.streaming).items() if value is not None}
    derived |= {"init": model, "chunk_ms": [0, own.streaming.chunk_ms or 0]}
    derived |= {"lookahead_ms": [own.streaming.lookahead_ms]}
    return read_config(_DEFAULTS, [*(f"{name}={json.dumps(value)}" for name, value in derived.items()), *given])


def verdict(measured: Mapping[int, Mapping[str, float]]) -> str:
    """A line that says what a run that began with a model made of it."""
    best = min(measured, key=lambda step: (measured[step]["wer"], step))
    if 0 not in measured:  # the folder holds a run of `train`, which does not measure what it begins with
        return f"WER on dev: {100 * measured[best]['wer']:.1f} % after {best} steps"
    before, after = 100 * measured[0]["wer"], 100 * measured[best]["wer"]
    if best == 0:
        return f"WER on dev: {before:.1f} % before; no measurement was better, so best is the model as it was"
    return f"WER on dev: {before:.1f} % before, {after:.1f} % after {best} steps"
