"""Cost of a config: parameters, memory and time, measured with real training steps on noise."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.config import ModelConfig
from asr.model.las import Model
from asr.text.tokenizer import EOS, Tokenizer
from asr.training.config import TrainConfig
from asr.training.data import Batch, Item, collate
from asr.training.module import LasModule
from asr.training.precision import autocast

__all__ = ["Probe", "probe"]

_TOKENS_PER_SECOND = 3.0  # read English, large byte-pair units


class Probe(NamedTuple):
    """Result of a probe."""

    parameters: int
    audio_seconds: float  # of the batch
    step_seconds: float
    peak_bytes: int  # peak of the step on a GPU, of the whole process on a CPU
    loss: float

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio per hour of training."""
        return self.audio_seconds / self.step_seconds

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} million parameters; a step on {self.audio_seconds:.0f} s of audio takes "
            f"{self.step_seconds:.2f} s ({self.hours_per_hour:.0f} hours of audio an hour) and "
            f"{self.peak_bytes / 2**30:.2f} GiB; loss {self.loss:.2f}"
        )


def probe(config: TrainConfig, utterances: int, seconds: float, device: str = "cpu", steps: int = 2) -> Probe:
    """Build the model of a config and take some training steps on noise, with augmentation and optimiser.

    Args:
        config: a run's settings; they give the vocabulary size.
        utterances: in the batch.
        seconds: duration of each utterance.
        device: "cpu" or "cuda".
        steps: number of steps; the last one is timed, since the first includes set-up.
    """
    torch.manual_seed(config.seed)
    vocab_size = config.tokenizer.vocab_size
    model = Model(
        ModelConfig(vocab_size, config.features, config.encoder, config.attention, config.decoder, config.search)
    )
    # Only measurements use the tokenizer, and there are none here.
    module = LasModule(model.train(), Tokenizer.train(["a"], 8, "char"), config).to(device)
    batch = _made_up(utterances, round(seconds * SAMPLE_RATE), vocab_size, device)
    optimiser = module.configure_optimizers()["optimizer"]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(steps):
        began = time.monotonic()
        loss = _step(module, optimiser, batch, 10**9 + step)  # late in a run, after every schedule
        taken = time.monotonic() - began
    return Probe(
        parameters=sum(p.numel() for p in model.parameters()),
        audio_seconds=utterances * seconds,
        step_seconds=taken,
        peak_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else _peak_of_process(),
        loss=loss,
    )


def _made_up(utterances: int, samples: int, vocab_size: int, device: str) -> Batch:
    count = max(1, round(samples / SAMPLE_RATE * _TOKENS_PER_SECOND))
    items = [Item(0.1 * torch.randn(samples), torch.randint(EOS + 1, vocab_size, (count,))) for _ in range(utterances)]
    return Batch(*(part.to(device) for part in collate(items)))


def _step(module: LasModule, optimiser: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    config = module.config
    with autocast(batch.waveform.device) if config.precision == "bf16" else nullcontext():
        losses = module.losses(batch, step)
        weight = config.ctc_weight_at(step)
        loss: Tensor = (1 - weight) * losses.attention + weight * losses.ctc
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimiser.clip_norm)
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())  # waits for the GPU


def _peak_of_process() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
