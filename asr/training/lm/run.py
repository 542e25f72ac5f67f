"""Training of the language model for shallow fusion: from text to `lm.safetensors`, resumable at any moment.

A run resumes from one file of plain data, `last.safetensors`: weights, the states of both optimisers and of the random
generator and, in its header, the progress.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from asr import checkpoint
from asr.config import from_dict
from asr.errors import CheckpointError, ConfigError
from asr.model.lm import LanguageModel
from asr.text.tokenizer import BLANK, Tokenizer
from asr.training.interrupts import heeding_interrupts
from asr.training.lm.config import LmTrainConfig
from asr.training.lm.data import Batch, Position, Sentences
from asr.training.lm.growth import widened
from asr.training.muon import GateMuon

__all__ = ["Perplexity", "Progress", "measure", "train"]

_LAST = "last.safetensors"
_CURVE_EVERY = 20  # steps


class Perplexity(NamedTuple):
    """Perplexity per token and per word; the end of a sentence counts as one token and one word."""

    token: float
    word: float

    def __str__(self) -> str:
        return f"perplexity {self.token:.2f} per token, {self.word:.1f} per word"


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    step: int = 0
    position: Position = field(default_factory=Position)
    passes: float = 0.0
    seconds: float = 0.0  # of training, over all starts of the run
    best: float = math.inf  # perplexity per word

    def share(self, config: LmTrainConfig, max_seconds: float | None) -> float:
        """Share of the run that is done, 0 to 1."""
        by_time = self.seconds / max_seconds if max_seconds else 0.0
        return min(1.0, max(by_time, self.passes / config.passes))


def _loss(lm: LanguageModel, batch: Batch, device: torch.device) -> Tensor:
    """Cross-entropy summed over tokens, in nats."""
    inputs, targets = (x.to(device, non_blocking=True) for x in batch)
    with torch.autocast(device.type, torch.bfloat16):
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


class _Run:
    """A model, its optimiser, and the file they are saved to."""

    def __init__(self, folder: Path, config: LmTrainConfig, vocab_size: int, device: torch.device) -> None:
        self.path, self.config, self.device = folder / _LAST, config, device
        torch.manual_seed(config.seed)
        self.lm = LanguageModel(config.model(vocab_size)).to(device)
        named = dict(self.lm.named_parameters())
        matrices = {name for name in named if name.startswith("lstm.weight_")}
        self.adam = torch.optim.Adam([p for n, p in named.items() if n not in matrices], betas=(0.9, 0.99), fused=True)
        self.muon = GateMuon([p for n, p in named.items() if n in matrices])
        self.states = {n: (self.muon if n in matrices else self.adam).state[p] for n, p in named.items()}

    def step(self, batch: Batch, rate_share: float) -> tuple[Tensor, Tensor]:
        """One step with a share of the learning rates; returns the mean loss per token and the gradient norm."""
        for optimiser, rate in ((self.adam, self.config.learning_rate), (self.muon, self.config.matrix_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_share
        loss = _loss(self.lm, batch, self.device) / (batch.targets != BLANK).sum()
        self.lm.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.lm.parameters(), self.config.clip_norm)
        self.adam.step()
        self.muon.step()
        return loss.detach(), norm

    def save(self, progress: Progress) -> None:
        tensors = {f"lm.{name}": weight for name, weight in self.lm.state_dict().items()}
        for name, state in self.states.items():
            for key, value in state.items():
                tensors[f"optimiser.{key}.{name}"] = value
        tensors["random"] = torch.get_rng_state()
        described = json.dumps({"progress": dataclasses.asdict(progress), "config": dataclasses.asdict(self.config)})
        part = self.path.with_name(self.path.name + ".part")
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part, {"run": described})
        part.replace(self.path)

    def load(self) -> Progress:
        """Resume from the file if it exists."""
        if not self.path.exists():
            return Progress()
        try:
            with safe_open(self.path, "pt") as file:
                described = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            saved = from_dict(LmTrainConfig, described["config"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: damaged; delete it to start anew ({error})") from None
        if not any(name.startswith("optimiser.momentum.") for name in tensors):
            raise ConfigError(f"{self.path}: made without Muon, and not resumable; use another folder")
        if saved.model(5) != self.config.model(5) or saved.seed != self.config.seed:
            raise ConfigError(f"{self.path}: the run has another model or seed; use another folder")
        self.lm.load_state_dict({n.removeprefix("lm."): t for n, t in tensors.items() if n.startswith("lm.")})
        for full, tensor in tensors.items():
            if full.startswith("optimiser."):
                _, key, name = full.split(".", 2)
                self.states[name][key] = tensor.to(self.device)
        torch.set_rng_state(tensors["random"])
        progress = described["progress"]
        return Progress(**progress | {"position": Position(*progress["position"])})


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
        tokenizer: the one the sentences are tokenised with.
        output: the run's folder: `last.safetensors` to resume from, the best model (`lm.safetensors`, `lm.json`) and
            `tensorboard/`.
        device: to train on.
        init: a model to begin with in place of random weights; a narrower one is widened.
        max_minutes: training time over all starts of the run. The learning rate falls to zero by then.
        advance: called after each step with the progress and the share done.
        report: called with each measurement as a line.

    Returns:
        The last measurement.

    Raises:
        CheckpointError, ConfigError: if the run in `output` is damaged or has other settings.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    run = _Run(output, config, len(tokenizer), device)
    if init is not None:
        run.lm.load_state_dict(widened(init, run.lm))
    progress = run.load()
    batches = sentences.batches(progress.position, config)
    began = time.monotonic() - progress.seconds
    max_seconds = 60 * max_minutes if max_minutes else None
    found, measured_step = Perplexity(math.inf, math.inf), -1
    with _Curves(output / "tensorboard", progress) as curves, heeding_interrupts() as interrupted:
        while (share := progress.share(config, max_seconds)) < 1 or measured_step != progress.step:
            if share < 1:
                batch, position, passes = next(batches)
                rate_share = config.rate_share(progress.step, share)
                loss, norm = run.step(batch, rate_share)
                seconds = time.monotonic() - began
                progress = dataclasses.replace(
                    progress, step=progress.step + 1, position=position, passes=passes, seconds=seconds
                )
                advance(progress, share)
                curves.step(progress, batch, loss, norm, config.learning_rate * rate_share)
            if interrupted.is_set():
                run.save(progress)
                raise KeyboardInterrupt(f"saved after step {progress.step}; the same command resumes the run")
            if progress.step % config.validate_every == 0 or progress.share(config, max_seconds) >= 1:
                found, measured_step = measure(run.lm, sentences, tokenizer, config.batch_tokens), progress.step
                report(f"step {progress.step}  {progress.seconds / 60:.1f} min  {progress.passes:.3f} passes  {found}")
                curves.measured(progress, found)
                if found.word < progress.best:
                    checkpoint.save_lm(output, run.lm, tokenizer, torch.float16)
                    progress = dataclasses.replace(progress, best=found.word)
                run.save(progress)
            elif progress.step % config.save_every == 0:
                run.save(progress)
    return found


class _Curves:
    """TensorBoard curves, as a context manager."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=progress.step + 1)
        self._tokens, self._since = 0, time.monotonic()

    def __enter__(self) -> _Curves:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def step(self, progress: Progress, batch: Batch, loss: Tensor, norm: Tensor, rate: float) -> None:
        self._tokens += int((batch.targets != BLANK).sum())
        if progress.step % _CURVE_EVERY == 0:
            now = time.monotonic()
            speed = self._tokens / (now - self._since)
            values = {"loss": float(loss), "gradient_norm": float(norm), "rate": rate, "tokens_per_second": speed}
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, progress.step)
            self._tokens, self._since = 0, now

    def measured(self, progress: Progress, found: Perplexity) -> None:
        for name, value in found._asdict().items():
            self._writer.add_scalar(f"dev/{name}_perplexity", value, progress.step)
