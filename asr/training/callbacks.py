"""Callbacks of a run: measurements on dev, checkpoints, saves, curves, pictures and a progress bar."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.errors import TrainingError
from asr.files import write_atomically
from asr.folders import find
from asr.training.average import MEASUREMENTS, folder_of, kept
from asr.training.board import Board
from asr.training.config import TrainConfig
from asr.training.data import Batch
from asr.training.module import LasModule, Pair

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Measurements", "Samples", "Saver", "Throughput"]

_THROUGHPUT_EVERY = 20  # steps
_TEXTS, _PICTURES = 8, 2  # of dev utterances, for TensorBoard at each measurement


class Measurements(Callback):
    """Prints a line for each measurement on dev, and keeps models: `last`, `best`, and candidates for averaging.

    Args:
        output: the run's folder.
        config: the run's settings.
        patience: end the run after this many measurements without improvement; 0 for never.
        first_step: first step of this growth stage; measurements of earlier stages do not count.
    """

    def __init__(self, output: Path, config: TrainConfig, patience: int, first_step: int) -> None:
        self._output, self._config, self._patience, self._first_step = output, config, patience, first_step
        self.measured: dict[int, dict[str, float]] = {}  # by step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_if_patience_is_over(trainer)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # In this hook and not in on_validation_end, since here the averaged weights are still in place.
        module = cast(LasModule, pl_module)
        wer, step = module.dev_wer(), trainer.global_step
        best = min((values["wer"] for at, values in self.measured.items() if at != step), default=float("inf"))
        self.measured[step] = {"wer": wer}
        if not trainer.is_global_zero:
            return
        wers = {at: values["wer"] for at, values in self.measured.items()}
        wanted = kept(wers, self._config.keep_last, self._config.keep_best)
        folders = [self._output / "last"]
        if step in wanted:
            folders.append(folder_of(self._output, step))
        if wer < best:
            folders.append(self._output / "best")
        for folder in folders:
            checkpoint.save(folder, module.model, module.tokenizer, torch.float16)
            if self._config.init:
                checkpoint.copy_text_models(find(self._config.init), folder)
        for at in self.measured.keys() - wanted:
            if (folder := folder_of(self._output, at)).is_dir():
                shutil.rmtree(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {n.removeprefix("dev/"): float(v) for n, v in trainer.callback_metrics.items() if n.startswith("dev/")}
        self.measured[trainer.global_step] = values | self.measured[trainer.global_step]
        self._stop_if_patience_is_over(trainer)
        shown = [f"{name} {value:.4f}" for name, value in sorted(values.items())]
        if trainer.optimizers:
            shown.insert(0, f"rate {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
        trainer.print("  ".join([f"step {trainer.global_step}", *shown]), flush=True)
        if trainer.is_global_zero:
            lines = [json.dumps({"step": at, **self.measured[at]}) + "\n" for at in sorted(self.measured)]
            write_atomically(self._output / MEASUREMENTS, "".join(lines))

    def _stop_if_patience_is_over(self, trainer: pl.Trainer) -> None:
        own = [at for at in sorted(self.measured) if at > self._first_step or not self._first_step]
        # Extra measurements at the end of the time limit do not count towards patience.
        wers = [self.measured[at]["wer"] for at in own if at % self._config.validate_every == 0]
        if self._patience and wers and len(wers) - 1 - wers.index(min(wers)) >= self._patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.measured = state_dict["measured"]


class Saver(Callback):
    """Saves the state to resume from; ends the run after its last step, at its deadline, or on an interrupt.

    Args:
        path: file to save to.
        config: the run's settings.
        until_step: the last step.
        deadline: in seconds of the monotonic clock, or None.
        interrupted: set by a signal handler: the current step is the last.
    """

    def __init__(
        self, path: Path, config: TrainConfig, until_step: int, deadline: float | None, interrupted: threading.Event
    ) -> None:
        self._path, self._config, self._until_step = path, config, until_step
        self._deadline, self._interrupted = deadline, interrupted
        self._saved_step = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step, decide = trainer.global_step, trainer.strategy.reduce_boolean_decision
        late = self._deadline is not None and time.monotonic() >= self._deadline
        # All processes must stop together. Each decision makes a GPU wait, so usually only one is taken.
        asked = decide(late or self._interrupted.is_set(), all=False)
        # Lightning would stop after the last step as well, but without a final measurement.
        if asked or step >= self._until_step:
            trainer.should_stop = True
        if asked and decide(self._interrupted.is_set(), all=False):
            self._interrupted.set()
            trainer.limit_val_batches = 0  # Ctrl-C does not wait for a measurement
        # At a measurement, on_validation_end saves: a run killed during it measures again when resumed.
        if step % self._config.save_every == 0 and step % self._config.validate_every != 0:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # not the measurement before the first step
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The run's only epoch ends here. After this hook the averaged weights replace the trained ones.
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        part = self._path.with_name(self._path.name + ".part")
        try:
            trainer.save_checkpoint(part, weights_only=False)  # with the state of the optimiser and the loops
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = f"cannot be written: {error.strerror or error}; the run resumes from the last save"
            raise TrainingError(f"{self._path}: {reason}") from error
        if trainer.is_global_zero:
            part.replace(self._path)
        trainer.strategy.barrier("saved")  # the next growth stage reads the file
        self._saved_step = trainer.global_step


class Throughput(Callback):
    """Logs hours of audio per hour of training, over all processes, excluding measurements."""

    def __init__(self) -> None:
        self._samples = torch.zeros((), dtype=torch.long)
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self._samples, self._since = torch.zeros((), dtype=torch.long), time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._samples = self._samples.to(batch.samples.device) + batch.samples.sum()
        if trainer.global_step % _THROUGHPUT_EVERY == 0:
            seconds = float(self._samples) / SAMPLE_RATE * trainer.world_size
            speed = seconds / max(time.monotonic() - self._since, 1e-9)
            pl_module.log("train/hours_per_hour", speed, logger=True)
            pl_module.log("h/h", round(speed), prog_bar=True, logger=False)
            self._begin()


class Samples(Callback):
    """Logs transcripts and attention pictures of some dev utterances to TensorBoard at each measurement."""

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Dev is sorted by length: utterances in the middle are neither trivial nor too long to look at.
        if not trainer.is_global_zero or batch_idx != int(sum(trainer.num_val_batches)) // 2:
            return
        module, step = cast(LasModule, pl_module), trainer.global_step
        board = cast(Board, trainer.logger)
        pairs: list[Pair] = outputs["pairs"][:_TEXTS]
        rows = [f"| {reference} | {hypothesis} |" for reference, hypothesis in pairs]
        table = "\n".join(["| reference | hypothesis |", "|---|---|", *rows])
        pictures = [_picture(module, batch, row) for row in range(min(_PICTURES, len(batch.samples)))]
        with board.writing():
            board.experiment.add_text("dev/samples", table, step)
            for row, picture in enumerate(pictures):
                board.experiment.add_figure(f"dev/attention_{row}", picture, step)


def _picture(module: LasModule, batch: Batch, row: int) -> Any:
    """Attention of the decoder when it is fed the reference."""
    from asr.plot import attention_figure

    samples, count = int(batch.samples[row]), int(batch.token_lengths[row])
    encoded = module.model.encode(batch.waveform[row : row + 1, :samples], batch.samples[row : row + 1])
    tokens = batch.tokens[row, :count].tolist()
    alignment = module.model.decoder.alignment(tokens, *encoded).numpy()
    pieces = [module.tokenizer.label(token) for token in tokens]
    return attention_figure(alignment, pieces, module.model.config.frame_seconds)


class Bar(Callback):
    """A progress bar on standard error: steps of the whole run, time left, logged values."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._bar: Progress | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:  # the processes of a node share a terminal
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar

        self._bar = RichBar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=Console(stderr=True),
            redirect_stdout=sys.stdout.isatty(),  # print lines above the bar, unless they are redirected
        )
        self._bar.start()
        self._bar.add_task("train", total=self._max_steps, completed=trainer.global_step, values="")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.monotonic() - self._drawn < 0.5:  # reading a value makes a GPU wait
            return
        self._drawn = time.monotonic()
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items())
        self._update("train", completed=trainer.global_step, values=values)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._update(f"measure {batch_idx + 1}/{int(sum(trainer.num_val_batches))}")

    def _update(self, description: str, **fields: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=description, **fields)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
