"""Training of the punctuation tagger: from text to `punctuation.safetensors`, resumable at any moment.

A run resumes from one file of plain data, `last.safetensors`: weights, state of the optimisers and, in its header, the
progress. Batches follow from the seed and the step alone.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asr import checkpoint
from asr.config import from_dict
from asr.errors import CheckpointError, ConfigError
from asr.training.interrupts import heeding_interrupts
from asr.training.muon import GateMuon
from asr.training.punctuation.batches import Batch, training_batch
from asr.training.punctuation.config import PunctuationTrainConfig
from asr.training.punctuation.data import IGNORED, Text
from asr.training.punctuation.measuring import Measured, measure
from asr.writing.network import PunctuationNetwork
from asr.writing.punctuation import Punctuator
from asr.writing.vocabulary import Vocabulary

__all__ = ["Progress", "train"]

_LAST = "last.safetensors"


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    step: int = 0
    seconds: float = 0.0  # of training, over all starts of the run
    best: float = -1.0  # mean F1

    def share(self, steps: int, max_seconds: float | None) -> float:
        """Share of the run that is done, 0 to 1."""
        return min(1.0, max(self.seconds / max_seconds if max_seconds else 0.0, self.step / steps))


class _Run:
    """A network, its optimisers, and the file they are saved to."""

    def __init__(self, folder: Path, config: PunctuationTrainConfig, device: torch.device) -> None:
        self.path, self.config, self.device = folder / _LAST, config, device
        torch.manual_seed(config.seed)
        self.network = PunctuationNetwork(config.model).to(device)
        named = dict(self.network.named_parameters())
        matrices = {name for name in named if ".weight_" in name}
        self.adam = torch.optim.Adam([p for n, p in named.items() if n not in matrices], betas=(0.9, 0.98), fused=True)
        self.muon = GateMuon([p for n, p in named.items() if n in matrices])
        self.states = {n: (self.muon if n in matrices else self.adam).state[p] for n, p in named.items()}

    def step(self, batch: Batch, rate_share: float) -> float:
        """One step with a share of the learning rates; returns the loss."""
        for optimiser, rate in ((self.adam, self.config.learning_rate), (self.muon, self.config.matrix_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_share
        moved = Batch(*(x.to(self.device, non_blocking=True) for x in batch))
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.network(*moved[:4])
        losses = (
            torch.nn.functional.cross_entropy(
                given.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            for given, wanted in zip(logits, moved[4:], strict=True)
        )
        of_marks, of_forms = losses
        loss = (of_marks + self.config.case_weight * of_forms) / moved.lengths.sum()
        self.network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.adam.step()
        self.muon.step()
        return float(loss.detach())

    def tagger(self, vocabulary: Vocabulary, offsets: Tensor) -> Punctuator:
        """A tagger with the weights of now, and the offsets of the marks in them."""
        network = copy.deepcopy(self.network).eval()
        network.marks.bias.data += offsets
        return Punctuator(network, vocabulary)

    def save(self, progress: Progress) -> None:
        tensors = {f"network.{name}": weight for name, weight in self.network.state_dict().items()}
        for name, state in self.states.items():
            for key, value in state.items():
                tensors[f"optimiser.{key}.{name}"] = value
        described = json.dumps({"progress": dataclasses.asdict(progress), "config": dataclasses.asdict(self.config)})
        tensors["random"] = torch.get_rng_state()
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
            saved = from_dict(PunctuationTrainConfig, described["config"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: damaged; delete it to start anew ({error})") from None
        if saved.model != self.config.model or saved.seed != self.config.seed:
            raise ConfigError(f"{self.path}: the run has another model or seed; use another folder")
        prefix = "network."
        self.network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        for full, tensor in tensors.items():
            if full.startswith("optimiser."):
                _, key, name = full.split(".", 2)
                self.states[name][key] = tensor.to(self.device)
        torch.set_rng_state(tensors["random"])
        return Progress(**described["progress"])


def train(
    config: PunctuationTrainConfig,
    text: Text,
    output: Path,
    *,
    device: torch.device,
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
        max_minutes: training time over all starts of the run. The learning rate falls to zero by then.
        advance: called after each step with the progress and the share done.
        report: called with each measurement as a line.

    Returns:
        The last measurement.

    Raises:
        CheckpointError, ConfigError: if the run in `output` is damaged or has other settings.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    run = _Run(output, config, device)
    progress = run.load()
    began = time.monotonic() - progress.seconds
    max_seconds = 60 * max_minutes if max_minutes else None
    steps = max(1, int(config.passes * text.learned_words / config.batch_words))
    found, measured_step = measure(run.network, text, config), progress.step
    with heeding_interrupts() as interrupted:
        while (share := progress.share(steps, max_seconds)) < 1 or measured_step != progress.step:
            if share < 1:
                run.step(training_batch(text, config, progress.step), config.rate_share(progress.step, share))
                progress = dataclasses.replace(progress, step=progress.step + 1, seconds=time.monotonic() - began)
                advance(progress, share)
            if interrupted.is_set():
                run.save(progress)
                raise KeyboardInterrupt(f"saved after step {progress.step}; the same command resumes the run")
            if progress.step % config.validate_every == 0 or progress.share(steps, max_seconds) >= 1:
                found, measured_step = measure(run.network, text, config), progress.step
                report(f"step {progress.step}  {progress.seconds / 60:.1f} min  {found}")
                if found.mean > progress.best:
                    checkpoint.save_punctuation(output, run.tagger(text.vocabulary, found.offsets))
                    progress = dataclasses.replace(progress, best=found.mean)
                run.save(progress)
            elif progress.step % config.save_every == 0:
                run.save(progress)
    return found
