"""Training data: prepared corpora with their texts as tokens, and the batches of a run drawn from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError, DataError
from asr.text.tokenizer import BLANK, Tokenizer
from asr.training.config import DataConfig
from asr.training.corpus.manifests import Entry, read_entries
from asr.training.sampler import BucketSampler

__all__ = ["Batch", "Corpus", "Item", "LasData", "collate"]

_DEV_BATCH = 16
_RESAMPLED_AWAY = SAMPLE_RATE // 50  # samples by which resampling may shorten an utterance


class Item(NamedTuple):
    """One utterance: waveform `(samples,)` and tokens `(U,)`."""

    waveform: Tensor
    tokens: Tensor


class Batch(NamedTuple):
    """A padded batch."""

    waveform: Tensor  # (B, N)
    samples: Tensor  # (B,)
    tokens: Tensor  # (B, U), padded with BLANK
    token_lengths: Tensor  # (B,)


@dataclass(frozen=True, eq=False)
class Corpus(Dataset[Item]):
    """Utterances of prepared folders; after `tokenise`, a data set for a DataLoader.

    `left_out` counts the utterances that `tokenise` dropped, by reason.
    """

    entries: list[Entry]
    left_out: dict[str, int] = field(default_factory=dict)
    # All tokens in a row, and where each utterance's begin: worker processes share the two arrays without copying.
    _tokens: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)
    _begins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)

    @classmethod
    def open(cls, folders: Path | Sequence[Path], weights: Sequence[float] | None = None) -> Corpus:
        """Read folders made by `spellstream prepare`.

        Args:
            folders: one or more.
            weights: repetitions of each folder's utterances per pass over the data; default: 1.

        Raises:
            DataError: if a folder was not prepared or is damaged, or a weight is out of range.
        """
        folders = [folders] if isinstance(folders, Path) else list(folders)
        weights = [1.0] * len(folders) if weights is None else weights
        for folder, weight in zip(folders, weights, strict=True):
            if not 0 < weight <= 1000:
                raise DataError(f"{folder}: its weight is {weight}: it must be positive, and at most 1000")
        read = (read_entries(folder, weight) for folder, weight in zip(folders, weights, strict=True))
        return cls([entry for entries in read for entry in entries])

    def tokenise(self, tokenizer: Tokenizer, config: DataConfig, frame_seconds: float) -> Corpus:
        """The corpus with texts as tokens, without utterances that are too short or long or have no or too many tokens.

        CTC needs an encoder frame of `frame_seconds` for each token.
        """
        left_out: Counter[str] = Counter()
        entries, tokens = [], []
        for entry in self.entries:
            if entry.seconds < config.min_seconds:
                left_out[f"shorter than {config.min_seconds:g} s"] += 1
            elif entry.seconds > config.max_seconds:
                left_out[f"longer than {config.max_seconds:g} s"] += 1
            elif not (encoded := tokenizer.encode(entry.text)):
                left_out["without a token"] += 1
            elif len(encoded) * frame_seconds > entry.seconds:
                left_out[f"with more than a token in {1000 * frame_seconds:g} ms, a frame of the encoder"] += 1
            else:
                entries.append(entry)
                tokens.append(np.asarray(encoded, np.int32))
        begins = np.cumsum([0, *(len(t) for t in tokens)])
        return Corpus(entries, dict(left_out), np.concatenate([np.zeros(0, np.int32), *tokens]), begins)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Item:
        first, last = self._begins[index : index + 2]
        return Item(self.waveform(index), torch.from_numpy(self._tokens[first:last].astype(np.int64)))

    def __getitems__(self, indices: list[int]) -> list[Item] | AudioError:
        """Items for a DataLoader. An error is returned, since one raised in a worker comes out as torch's own error."""
        try:
            return [self[i] for i in indices]
        except AudioError as error:
            return error

    def waveform(self, index: int) -> Tensor:
        """The audio of an utterance, `(samples,)`.

        Raises:
            AudioError: if the file is missing or has become shorter.
        """
        entry = self.entries[index]
        start, samples = round(entry.start_seconds * SAMPLE_RATE), round(entry.seconds * SAMPLE_RATE)
        if entry.at_16_khz:
            waveform, least = _enter(entry.audio, start, samples), samples
        else:
            waveform, least = load(entry.audio)[start : start + samples], samples - _RESAMPLED_AWAY
        if len(waveform) < least:
            raise AudioError(entry.audio, f"is shorter than it was when {entry.id} was prepared: prepare it again")
        return waveform


def _enter(path: Path, start: int, samples: int) -> Tensor:
    """`samples` samples of a 16 kHz file from `start` on, without decoding those before."""
    import soundfile

    try:
        with soundfile.SoundFile(str(path)) as sound:
            sound.seek(min(start, sound.frames))
            return torch.from_numpy(sound.read(samples, dtype="float32"))
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(path, f"cannot be read any more: {error}") from None


class LasData(pl.LightningDataModule):
    """Batches of a run: `train` in buckets of similar length, resumable; `dev` sorted by length.

    With several processes, each gets a share of both.
    """

    def __init__(self, train: Corpus, dev: Corpus, config: DataConfig, seed: int) -> None:
        super().__init__()
        self._train, self._dev, self._config, self._seed = train, dev, config, seed
        self._starts: Sequence[int] = (0,)
        self._sampler: BucketSampler | None = None

    def train_dataloader(self) -> DataLoader[Batch | AudioError]:
        trainer, entries = self.trainer, self._train.entries
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        seconds, weights = [e.seconds for e in entries], [e.weight for e in entries]
        self._sampler = BucketSampler(seconds, self._config, self._seed, weights, rank, world_size)
        # Count the trainer's steps and not the sampler's batches: workers prefetch batches that a killed run never saw.
        self._sampler.start_at(trainer.global_step * trainer.accumulate_grad_batches if trainer else 0, self._starts)
        return DataLoader(
            self._train,  # type: ignore[arg-type]
            batch_sampler=self._sampler,
            collate_fn=_collated,
            num_workers=self._config.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Batch | AudioError]:
        """This process's share of dev; all of it if there are fewer utterances than processes."""
        order = sorted(range(len(self._dev)), key=lambda i: self._dev.entries[i].seconds)
        world_size = self.trainer.world_size if self.trainer and self.trainer.world_size <= len(order) else 1
        own = order[self.trainer.global_rank :: world_size] if self.trainer and world_size > 1 else order
        # The same number of batches in each process, since DDP synchronises buffers with every batch.
        count = -(-len(order) // (_DEV_BATCH * world_size))
        batches = [part.tolist() for part in np.array_split(own, count)]
        return DataLoader(self._dev, batch_sampler=batches, collate_fn=_collated)  # type: ignore[arg-type]

    def on_before_batch_transfer(self, batch: Batch | AudioError, dataloader_idx: int) -> Batch:
        if isinstance(batch, AudioError):
            raise batch
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"starts": list(self._sampler.starts if self._sampler else self._starts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._starts = state_dict["starts"]


def _collated(items: list[Item] | AudioError) -> Batch | AudioError:
    return items if isinstance(items, AudioError) else collate(items)


def collate(items: Sequence[Item]) -> Batch:
    """Pad items to one batch."""
    waveforms, tokens = [i.waveform for i in items], [i.tokens for i in items]
    return Batch(
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(w) for w in waveforms]),
        pad_sequence(tokens, batch_first=True, padding_value=BLANK),
        torch.tensor([len(t) for t in tokens]),
    )
