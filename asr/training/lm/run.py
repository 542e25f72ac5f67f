"""Training of the language model for shallow fusion: from text to `lm.safetensors`, resumable at any moment."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from asr import checkpoint
from asr.model.lm import LanguageModel
from asr.text.tokenizer import BLANK, Tokenizer
from asr.training.curves import naming, quiet_writer
from asr.training.lm.config import LmTrainConfig
from asr.training.lm.data import Batch, Position, Sentences
from asr.training.lm.growth import widened
from asr.training.precision import autocast
from asr.training.saved_run import RunProgress, SavedRun

__all__ = ["Perplexity", "Progress", "measure", "train"]

_CURVE_EVERY = 20  # steps


class Perplexity(NamedTuple):
    """Perplexity per token and per word; the end of a sentence counts as one token and one word."""

    token: float
    word: float

    def __str__(self) -> str:
        return f"perplexity {self.token:.2f} per token, {self.word:.1f} per word"


@dataclass(frozen=True)
class Progress(RunProgress):
    """Progress of a run."""

    position: Position = field(default_factory=Position)
    passes: float = 0.0
    best: float = math.inf  # perplexity per word

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Progress:
        """The progress of a saved run; the start, if `saved` is empty."""
        return cls(**saved | {"position": Position(*saved.get("position", ()))})

    def share(self, config: LmTrainConfig, max_seconds: float | None) -> float:
        """Share of the run that is done, 0 to 1."""
        by_time = self.seconds / max_seconds if max_seconds else 0.0
        return min(1.0, max(by_time, self.passes / config.passes))


def _loss(lm: LanguageModel, batch: Batch, device: torch.device) -> Tensor:
    """Cross-entropy summed over tokens, in nats."""
    inputs, targets = (x.to(device, non_blocking=True) for x in batch)
    with autocast(device):
        logits, _ = lm(inputs, lm.initial_state(len(inputs)))
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=BLANK, reduction="sum"
    )


@torch.inference_mode()
def measure(lm: LanguageModel, sentences: Sentences, tokenizer: Tokenizer, batch_tokens: int) -> Perplexity:
    """Perplexity on the held-out sentences."""
    device, starts = lm.bias.device, torch.tensor(tokenizer.word_starts)
    was_training, nats, tokens, words = lm.training, 0.0, 0, 0
    lm.eval()
    for batch in sentences.dev_batches(batch_tokens):
        nats += float(_loss(lm, batch, device))
        tokens += int((batch.targets != BLANK).sum())
        words += int((starts[batch.targets] & (batch.targets != BLANK)).sum())
    lm.train(was_training)
    return Perplexity(math.exp(nats / tokens), math.exp(nats / (words + len(sentences.dev))))


def train(
    config: LmTrainConfig,
    sentences: Sentences,
    tokenizer: Tokenizer,
    output: Path,
    *,
    device: torch.device,
    init: LanguageModel | None = None,
    max_minutes: float | None = None,
    advance: Callable[[Progress, float], None] = lambda progress, share: None,
    report: Callable[[str], None] = lambda line: None,
) -> Perplexity:
    """Train, or resume the run in `output`, until all passes are made or the time is up.

    Args:
        config: the run's settings.
        sentences: training and held-out text.
        tokenizer: the tokenizer of the sentences.
        output: the run's folder: `last.safetensors` to resume from, the best model (`lm.safetensors`, `lm.json`) and
            `tensorboard/`.
        device: to train on.
        init: a model to start from instead of random weights; a narrower one is widened.
        max_minutes: training time over all starts of the run. The learning rate falls to zero by then.
        advance: called after each step with the progress and the share done.
        report: called with each measurement as a line.

    Returns:
        The last measurement.

    Raises:
        CheckpointError, ConfigError: if the run in `output` is damaged or has other settings.
        DataError, TrainingError: if the run cannot be saved.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    torch.manual_seed(config.seed)
    lm = LanguageModel(config.model(len(tokenizer))).to(device)
    if init is not None:
        lm.load_state_dict(widened(init, lm))
    run = SavedRun(output, config, lm)
    progress = Progress.of(run.load())
    batches = sentences.batches(progress.position, config)
    began = time.monotonic() - progress.seconds
    max_seconds = 60 * max_minutes if max_minutes else None

    def learn(progress: Progress, share: float) -> Progress:
        batch, position, passes = next(batches)
        rate_share = config.rate_share(progress.step, share)
        loss = _loss(lm, batch, device) / (batch.targets != BLANK).sum()
        norm = run.step(loss, rate_share)
        seconds = time.monotonic() - began
        after = dataclasses.replace(progress, step=progress.step + 1, seconds=seconds, position=position, passes=passes)
        advance(after, share)
        curves.step(after, batch, loss.detach(), norm, config.learning_rate * rate_share)
        return after

    def measured(progress: Progress) -> tuple[Progress, Perplexity]:
        found = measure(lm, sentences, tokenizer, config.batch_tokens)
        report(f"step {progress.step}  {progress.seconds / 60:.1f} min  {progress.passes:.3f} passes  {found}")
        curves.measured(progress, found)
        if found.word < progress.best:
            checkpoint.save_lm(output, lm, tokenizer, torch.float16)
            progress = dataclasses.replace(progress, best=found.word)
        return progress, found

    with quiet_writer(), _Curves(output / "tensorboard", progress) as curves:
        return run.train(progress, lambda progress: progress.share(config, max_seconds), learn, measured)


class _Curves:
    """TensorBoard curves, as a context manager."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        with naming(folder):
            self._writer = SummaryWriter(str(folder), purge_step=progress.step + 1)
        self._tokens, self._since = 0, time.monotonic()

    def __enter__(self) -> _Curves:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with naming(self._folder, failed=failed is not None):
            self._writer.close()

    def step(self, progress: Progress, batch: Batch, loss: Tensor, norm: Tensor, rate: float) -> None:
        self._tokens += int((batch.targets != BLANK).sum())
        if progress.step % _CURVE_EVERY == 0:
            now = time.monotonic()
            speed = self._tokens / (now - self._since)
            values = {"loss": float(loss), "gradient_norm": float(norm), "rate": rate, "tokens_per_second": speed}
            self._add("train", values, progress.step)
            self._tokens, self._since = 0, now

    def measured(self, progress: Progress, found: Perplexity) -> None:
        self._add("dev", {f"{name}_perplexity": value for name, value in found._asdict().items()}, progress.step)

    def _add(self, group: str, values: Mapping[str, float], step: int) -> None:
        with naming(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
