"""Training of a tiny model for four steps on fixed batches, split between the processes of torchrun.

`python two_processes.py OUT` saves each step's loss and the weights at the end.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from asr.config import ModelConfig
from asr.model.las import Model
from asr.text.tokenizer import EOS, Tokenizer
from asr.training.config import AugmentConfig
from asr.training.data import Batch, Item, collate
from asr.training.module import LasModule
from asr.training.run import Machine, build_trainer
from tests.support.tiny_run import RUN

STEPS = 4
OFF = AugmentConfig(
    speeds=(),
    gain_db=0.0,
    noise_probability=0.0,
    bandwidth_probability=0.0,
    reverb_probability=0.0,
    codec_probability=0.0,
    time_masks=0,
    mel_masks=0,
)
CONFIG = dataclasses.replace(
    RUN,
    encoder=dataclasses.replace(RUN.encoder, dropout=0.0, normalisation="layer"),
    decoder=dataclasses.replace(RUN.decoder, dropout=0.0),
    augment=OFF,
    sampling_rate=0.0,
    precision="float32",
    validate_every=100,
    optimiser=dataclasses.replace(RUN.optimiser, clip_norm=0.5),
)


class Losses(pl.Callback):
    """Records the logged loss of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def batches(rank: int, world_size: int) -> list[Batch]:
    """This process's utterances of four batches of five, of unequal lengths."""
    torch.manual_seed(5)
    items = [
        Item(torch.randn(6_000 + 1_500 * (i % 7)), torch.randint(EOS + 1, 12, (1 + i % 4,))) for i in range(5 * STEPS)
    ]
    return [collate(items[first : first + 5][rank::world_size]) for first in range(0, len(items), 5)]


def main(output: Path) -> None:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # lightning copies the weights of the first process to the others
    model = Model(ModelConfig(12, CONFIG.features, CONFIG.encoder, CONFIG.attention, CONFIG.decoder))
    module = LasModule(model, Tokenizer.train(["a"], 8, "char"), CONFIG)
    losses = Losses()
    trainer = build_trainer(CONFIG, output, STEPS, Machine("cpu", world_size), [losses])
    trainer.fit(module, DataLoader(batches(rank, world_size), batch_size=None))  # type: ignore[arg-type]
    if rank == 0:
        save_file({"losses": torch.tensor(losses.seen), **module.state_dict()}, output / "result.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
