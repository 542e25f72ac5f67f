"""Training of the punctuation tagger: from text to `punctuation.safetensors`, resumable at any moment.

Batches follow from the seed and the step alone.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asr import checkpoint
from asr.training.precision import autocast
from asr.training.punctuation.batches import Batch, training_batch
from asr.training.punctuation.config import PunctuationTrainConfig
from asr.training.punctuation.data import IGNORED, Text
from asr.training.punctuation.measuring import Measured, measure
from asr.training.saved_run import RunProgress, SavedRun
from asr.writing.network import PunctuationNetwork
from asr.writing.punctuation import Punctuator
from asr.writing.vocabulary import Vocabulary

__all__ = ["Progress", "train"]


@dataclass(frozen=True)
class Progress(RunProgress):
    """Progress of a run."""

    best: float = -1.0  # mean F1

    def share(self, steps: int, max_seconds: float | None) -> float:
        """Share of the run that is done, 0 to 1."""
        return min(1.0, max(self.seconds / max_seconds if max_seconds else 0.0, self.step / steps))


def _loss(network: PunctuationNetwork, batch: Batch, config: PunctuationTrainConfig, device: torch.device) -> Tensor:
    """Cross-entropy of marks and cases per word."""
    moved = Batch(*(x.to(device, non_blocking=True) for x in batch))
    with autocast(device):
        logits = network(*moved[:4])
    of_marks, of_cases = (
        torch.nn.functional.cross_entropy(
            given.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        for given, wanted in zip(logits, moved[4:], strict=True)
    )
    loss: Tensor = (of_marks + config.case_weight * of_cases) / moved.lengths.sum()
    return loss


def _tagger(network: PunctuationNetwork, vocabulary: Vocabulary, offsets: Tensor) -> Punctuator:
    """A tagger with the current weights, and with offsets of the marks."""
    network = copy.deepcopy(network).eval()
    network.offsets.copy_(offsets)
    return Punctuator(network, vocabulary)


def train(
    config: PunctuationTrainConfig,
    text: Text,
    output: Path,
    *,
    device: torch.device,
    init: PunctuationNetwork | None = None,
    max_minutes: float | None = None,
    advance: Callable[[Progress, float], None] = lambda progress, share: None,
    report: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Train, or resume the run in `output`, until all passes are made or the time is up.

    Args:
        config: the run's settings.
        text: training and held-out text.
        output: the run's folder: `last.safetensors` to resume from, and the best tagger, `punctuation.safetensors`
            and `punctuation.json`.
        device: to train on.
        init: a network of the same settings to start from instead of random weights; `text` has its vocabulary.
        max_minutes: training time over all starts of the run. The learning rate falls to zero by then.
        advance: called after each step with the progress and the share done.
        report: called with each measurement as a line.

    Returns:
        The last measurement.

    Raises:
        CheckpointError, ConfigError: if the run in `output` is damaged or has other settings.
        TrainingError: a gradient is not finite.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    torch.manual_seed(config.seed)
    network = PunctuationNetwork(config.model).to(device)
    if init is not None:
        network.load_state_dict(init.state_dict())
        network.offsets.zero_()  # each measurement finds new ones
    run = SavedRun(output, config, network)
    progress = Progress(**run.load())
    began = time.monotonic() - progress.seconds
    max_seconds = 60 * max_minutes if max_minutes else None
    steps = max(1, int(config.passes * text.learned_words / config.batch_words))

    def learn(progress: Progress, share: float) -> Progress:
        loss = _loss(network, training_batch(text, config, progress.step), config, device)
        run.step(loss, config.rate_share(progress.step, share))
        after = dataclasses.replace(progress, step=progress.step + 1, seconds=time.monotonic() - began)
        advance(after, share)
        return after

    def measured(progress: Progress) -> tuple[Progress, Measured]:
        found = measure(network, text, config)
        report(f"step {progress.step}  {progress.seconds / 60:.1f} min  {found}")
        if found.mean > progress.best:
            checkpoint.save_punctuation(output, _tagger(network, text.vocabulary, found.offsets))
            progress = dataclasses.replace(progress, best=found.mean)
        return progress, found

    if init is not None and progress.step == 0:
        progress, _ = measured(progress)  # so that the best tagger is never worse than the initial one
    return run.train(progress, lambda progress: progress.share(steps, max_seconds), learn, measured)
