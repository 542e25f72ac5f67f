"""A run that resumes from one file: the common part of the training of language and punctuation models.

`last.safetensors` is plain data: weights, the states of both optimisers and of the random generator and, in its header,
progress and settings.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from asr.checkpoint import write_tensors
from asr.config import from_dict, require
from asr.errors import CheckpointError, ConfigError, TrainingError
from asr.training.config import read_toml
from asr.training.interrupts import heeding_interrupts
from asr.training.muon import GateMuon

__all__ = ["RunConfig", "RunProgress", "SavedRun", "read_run_config"]

_LAST = "last.safetensors"


@dataclass(frozen=True)
class RunConfig(ABC):
    """Settings of every run. The defaults suit half an hour to two hours on a CPU core."""

    held_out: float = 0.005  # share at the end of each text that is not learned from
    passes: float = 1.0  # over the whole text
    learning_rate: float = 3e-3  # Adam, of embeddings, output layers and biases
    matrix_rate: float = 0.015  # Muon, of the LSTMs' matrices; both fall linearly to zero after the warm-up
    warmup_steps: int = 100
    clip_norm: float = 1.0
    validate_every: int = 200  # steps
    save_every: int = 100  # steps
    seed: int = 1

    adam_betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def __post_init__(self) -> None:
        require(0 < self.held_out < 1, "held_out", self.held_out, "in (0, 1)")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        for name in ("passes", "learning_rate", "matrix_rate", "clip_norm", "validate_every", "save_every"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")

    def rate_share(self, step: int, progress: float) -> float:
        """Factor of the learning rates at a step; `progress` is the completed share of the run, 0 to 1."""
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * max(0.0, 1.0 - progress)

    @abstractmethod
    def same_model(self, other: Any) -> bool:
        """Whether a run with these settings can resume from the weights of a run with the other ones."""


@dataclass(frozen=True)
class RunProgress:
    """Progress of every run."""

    step: int = 0
    seconds: float = 0.0  # of training, over all starts of the run


C = TypeVar("C", bound=RunConfig)
P = TypeVar("P", bound=RunProgress)
M = TypeVar("M")  # a measurement


def read_run_config(path: Path, kind: type[C]) -> C:
    """Read a TOML file.

    Raises:
        ConfigError: if the file is missing, not TOML, or has an unknown setting; names the file.
    """
    data = read_toml(path)
    try:
        return from_dict(kind, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


class SavedRun:
    """A model in training, its optimisers, and the file they are saved to.

    Args:
        folder: of the run.
        config: its settings.
        model: to train; the matrices of its LSTMs by Muon, all else by Adam.
    """

    def __init__(self, folder: Path, config: RunConfig, model: nn.Module) -> None:
        self.path, self.config, self.model = folder / _LAST, config, model
        named = dict(model.named_parameters())
        matrices = {name for name in named if ".weight_" in name}
        others = [p for n, p in named.items() if n not in matrices]
        self._adam = torch.optim.Adam(others, betas=config.adam_betas, fused=True)
        self._muon = GateMuon([p for n, p in named.items() if n in matrices])
        self._states = {n: (self._muon if n in matrices else self._adam).state[p] for n, p in named.items()}

    def step(self, loss: Tensor, rate_share: float) -> Tensor:
        """One step down the gradient of `loss`, at `rate_share` times the learning rates; return the gradient norm.

        Raises:
            TrainingError: the gradient is not finite; the weights are those of the step before.
        """
        for optimiser, rate in ((self._adam, self.config.learning_rate), (self._muon, self.config.matrix_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_share
        self.model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            advice = "resume with a lower learning_rate, matrix_rate or clip_norm"
            raise TrainingError(f"{self.path.parent}: the gradient is not finite; {advice}")
        self._adam.step()
        self._muon.step()
        return norm

    def train(
        self,
        progress: P,
        share: Callable[[P], float],
        learn: Callable[[P, float], P],
        measure: Callable[[P], tuple[P, M]],
    ) -> M:
        """Take steps until the run is done; measure and save it as often as the settings say.

        Args:
            progress: of the run so far.
            share: of the run that is done, 0 to 1.
            learn: takes a step, given the progress and that share; returns the new progress.
            measure: measures the model and saves it if it is the best; returns the new progress and what it found.

        Returns:
            The last measurement, made at the end.

        Raises:
            KeyboardInterrupt: after Ctrl-C, with the run saved.
            TrainingError: see `step`.
        """
        with heeding_interrupts() as interrupted:
            while True:
                if (done := share(progress)) < 1:
                    progress = learn(progress, done)
                if interrupted.is_set():
                    self.save(progress)
                    raise KeyboardInterrupt(f"saved after step {progress.step}; the same command resumes the run")
                ended = share(progress) >= 1
                if ended or progress.step % self.config.validate_every == 0:
                    progress, found = measure(progress)
                    self.save(progress)
                    if ended:
                        return found
                elif progress.step % self.config.save_every == 0:
                    self.save(progress)

    def save(self, progress: RunProgress) -> None:
        """Save the run; all values of `progress` are plain.

        Raises:
            DataError: the file cannot be written; the previous one is kept.
        """
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        for name, state in self._states.items():
            for key, value in state.items():
                tensors[f"optimiser.{key}.{name}"] = value
        tensors["random"] = torch.get_rng_state()
        described = json.dumps({"progress": dataclasses.asdict(progress), "config": dataclasses.asdict(self.config)})
        write_tensors(self.path, tensors, {"run": described})

    def load(self) -> dict[str, Any]:
        """Resume from the file, and return the fields of the progress; empty if there is no file.

        Raises:
            CheckpointError, ConfigError: if the file is damaged, of an earlier version, or of another model.
        """
        if not self.path.exists():
            return {}
        try:
            with safe_open(self.path, "pt") as file:
                described = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            saved, progress = from_dict(type(self.config), described["config"]), dict(described["progress"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: damaged; delete it to start again ({error})") from None
        if not any(name.startswith("model.") for name in tensors):
            raise ConfigError(f"{self.path}: made by an earlier version, and not resumable; use another folder")
        if not self.config.same_model(saved) or saved.seed != self.config.seed:
            raise ConfigError(f"{self.path}: the run has another model or seed; use another folder")

        weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        if weights.keys() != self.model.state_dict().keys():
            raise ConfigError(f"{self.path}: made by an earlier version, and not resumable; use another folder")
        self.model.load_state_dict(weights)
        device = next(self.model.parameters()).device
        for full, tensor in tensors.items():
            if full.startswith("optimiser."):
                _, key, name = full.split(".", 2)
                self._states[name][key] = tensor.to(device)
        torch.set_rng_state(tensors["random"])
        return progress
