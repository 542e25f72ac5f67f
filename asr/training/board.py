"""Lightning's TensorBoard logger, with errors that name the folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from asr.training.curves import naming

__all__ = ["Board"]


class Board(TensorBoardLogger):
    """Writes the curves of a run to `tensorboard/` in its folder.

    Raises:
        TrainingError: from any method: the folder cannot be written.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(output, name="tensorboard", version="")
        self._folder = output / "tensorboard"

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """The block around a direct use of the writer."""
        return naming(self._folder)

    @property
    def experiment(self) -> SummaryWriter:
        """TensorBoard's writer."""
        with self.writing():
            writer: SummaryWriter = super().experiment
        return writer

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.writing():
            super().log_metrics(metrics, step)

    def save(self) -> None:
        with self.writing():
            super().save()

    def finalize(self, status: str) -> None:
        with naming(self._folder, failed=status == "failed"):
            super().finalize(status)
