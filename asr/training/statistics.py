"""Statistics of a prepared corpus, and the mean and standard deviation of its features for normalisation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.config import FeatureConfig, to_dict
from asr.errors import DataError
from asr.files import write_atomically
from asr.model.features import LogMel
from asr.training.corpus.manifests import Entry
from asr.training.data import Corpus

__all__ = ["FeatureStatistics", "describe", "feature_statistics", "measure_features", "write_statistics"]

FILE = "statistics.json"
_SAMPLE_UTTERANCES = 500
_MIN_STD = 1e-3
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz' ")
_PERCENTILES = (5, 50, 95)


class FeatureStatistics(NamedTuple):
    """Statistics of unnormalised log-mel features over frames."""

    mean: Tensor  # (n_mels,)
    std: Tensor  # (n_mels,)


def describe(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """A row of numbers for each corpus, and one named `all`."""
    rows = {name: [e for e in entries if e.corpus == name] for name in sorted({e.corpus for e in entries})}
    return {name: _row(own) for name, own in rows.items()} | {"all": _row(entries)}


def _row(entries: Sequence[Entry]) -> dict[str, Any]:
    seconds = np.array([e.seconds for e in entries])
    letters = Counter("".join(e.text for e in entries))
    quantiles = np.percentile(seconds, _PERCENTILES).round(2).tolist()
    return {
        "utterances": len(entries),
        "hours": round(float(seconds.sum()) / 3600, 3),
        "speakers": len({e.speaker for e in entries if e.speaker is not None}),
        "seconds": {"min": float(seconds.min()), **{f"{p}%": q for p, q in zip(_PERCENTILES, quantiles, strict=True)}}
        | {"max": float(seconds.max())},
        "words": sum(len(e.text.split()) for e in entries),
        "letters": letters.total(),
        "letters_a_second": round(letters.total() / float(seconds.sum()), 2),
        "out_of_alphabet": {letter: n for letter, n in sorted(letters.items()) if letter not in _ALPHABET},
    }


@torch.no_grad()
def measure_features(
    corpus: Corpus, features: LogMel, advance: Callable[[float], None] = lambda seconds: None
) -> FeatureStatistics:
    """Mean and standard deviation of each mel bin over an evenly spread sample of the corpus."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for index in sample(corpus):
        frames = features.unnormalised(corpus.waveform(index)[None])[0].double()
        count, total, squares = count + len(frames), total + frames.sum(0), squares + frames.square().sum(0)
        advance(corpus.entries[index].seconds)
    if not count:
        raise DataError("no utterance is long enough to measure features")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=_MIN_STD)
    return FeatureStatistics(mean.float(), std.float())


def sample(corpus: Corpus) -> range:
    """Indices of the utterances that `measure_features` reads."""
    return range(0, len(corpus), max(1, len(corpus) // _SAMPLE_UTTERANCES))


def write_statistics(
    folder: Path, table: dict[str, dict[str, Any]], config: FeatureConfig, f: FeatureStatistics
) -> None:
    """Store the table and the feature statistics beside the corpus."""
    features = {"config": to_dict(config), "mean": f.mean.tolist(), "std": f.std.tolist()}
    write_atomically(folder / FILE, json.dumps({"corpora": table, "features": features}, indent=2) + "\n")


def feature_statistics(folders: Iterable[Path], config: FeatureConfig) -> FeatureStatistics | None:
    """Stored feature statistics of several folders pooled, weighted by hours.

    None if a folder has none, or has those of another feature config.

    Raises:
        DataError: if a file of statistics is damaged.
    """
    parts: list[tuple[float, FeatureStatistics]] = []
    for folder in folders:
        path = folder / FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            features = stored["features"]
            if features["config"] != to_dict(config):
                return None
            mean, std = (torch.tensor(features[name], dtype=torch.float32) for name in ("mean", "std"))
            hours = float(stored["corpora"]["all"]["hours"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged: {type(error).__name__}: {error}") from None
        if not (mean.shape == std.shape == (config.n_mels,) and bool(mean.isfinite().all()) and bool((std > 0).all())):
            raise DataError(f"{path}: damaged: expected {config.n_mels} means and positive deviations")
        parts.append((hours, FeatureStatistics(mean, std)))
    if not parts:
        return None
    weights = torch.tensor([max(hours, 1e-6) for hours, _ in parts])
    weights = (weights / weights.sum())[:, None]
    means, stds = torch.stack([f.mean for _, f in parts]), torch.stack([f.std for _, f in parts])
    mean = (weights * means).sum(0)
    return FeatureStatistics(mean, (weights * (stds.square() + (means - mean).square())).sum(0).sqrt())
