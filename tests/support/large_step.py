"""One training step on noise, to measure the memory that a config takes."""

from __future__ import annotations

import resource
import sys
from contextlib import nullcontext

import torch

from asr.audio import SAMPLE_RATE
from asr.config import ModelConfig
from asr.model.las import Model
from asr.text.tokenizer import EOS, Tokenizer
from asr.training.config import TrainConfig
from asr.training.data import Item, collate
from asr.training.module import LasModule
from asr.training.precision import autocast

__all__ = ["step_on_noise"]

_TOKENS_PER_SECOND = 3.0  # read English, large byte-pair units


def step_on_noise(config: TrainConfig, utterances: int, seconds: float) -> tuple[int, int, float]:
    """Number of parameters, peak memory of the process in bytes, and loss of a step with augmentation and optimiser."""
    torch.manual_seed(config.seed)
    vocab_size = config.tokenizer.vocab_size
    model = Model(
        ModelConfig(vocab_size, config.features, config.encoder, config.attention, config.decoder, config.search)
    )
    # Only measurements use the tokenizer, and there are none here.
    module = LasModule(model.train(), Tokenizer.train(["a"], 8, "char"), config)
    tokens = torch.randint(EOS + 1, vocab_size, (round(seconds * _TOKENS_PER_SECOND),))
    batch = collate([Item(0.1 * torch.randn(round(seconds * SAMPLE_RATE)), tokens)] * utterances)

    step = 10**9  # late in a run, after every schedule
    with autocast(batch.waveform.device) if config.precision == "bf16" else nullcontext():
        losses = module.losses(batch, step)
        weight = config.ctc_weight_at(step)
        loss = (1 - weight) * losses.attention + weight * losses.ctc
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimiser.clip_norm)
    module.configure_optimizers()["optimizer"].step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return sum(p.numel() for p in model.parameters()), peak, float(loss.detach())
