"""Training data: corpora decoded once into one flat file, and batches of similar length drawn from it.

Decoding compressed audio costs more than a small model's training step, so `pack` does it once: `audio.i16` holds the
samples of all utterances in a row, 16 kHz mono, and `utterances.jsonl` says where each begins. It is memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from asr.audio import SAMPLE_RATE, load
from asr.errors import AudioError, DataError
from asr.manifest import Utterance, read
from asr.tokenizer import BLANK, Tokenizer
from asr.training.config import DataConfig

__all__ = ["Batch", "BucketSampler", "Corpus", "Item", "LasData", "collate", "pack"]

_AUDIO, _INDEX = "audio.i16", "utterances.jsonl"


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


@dataclass(frozen=True)
class Entry:
    """Where an utterance lies in a packed corpus."""

    id: str
    text: str
    start: int  # samples
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


def pack(
    manifests: Sequence[Path], folder: Path, workers: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> list[str]:
    """Decode every transcribed utterance of the manifests into `folder`.

    Args:
        manifests: JSON-lines files.
        folder: made if missing; what it held is replaced once all is done.
        workers: processes that decode.
        progress: called with the number done and the number in all.

    Returns:
        One line for each utterance that could not be read; the others are there.

    Raises:
        DataError: if a manifest is broken, or no utterance is left.
    """
    utterances = [u for manifest in manifests for u in read(manifest) if u.text]
    folder.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    start = 0
    part, index = folder / (_AUDIO + ".part"), folder / (_INDEX + ".part")
    with part.open("wb") as audio, index.open("w", encoding="utf-8") as rows, ProcessPoolExecutor(workers) as pool:
        decoded = pool.map(_decode, utterances, chunksize=16)
        for done, (utterance, samples) in enumerate(zip(utterances, decoded, strict=True), 1):
            if isinstance(samples, str):
                problems.append(samples)
            else:
                audio.write(samples.tobytes())
                row = {"id": utterance.id, "text": utterance.text, "start": start, "samples": len(samples)}
                rows.write(json.dumps(row) + "\n")
                start += len(samples)
            progress(done, len(utterances))
    if start == 0:
        part.unlink()
        index.unlink()
        raise DataError(f"{', '.join(map(str, manifests))}: no utterance with text and readable audio")
    part.replace(folder / _AUDIO)
    index.replace(folder / _INDEX)
    return problems


def _decode(utterance: Utterance) -> npt.NDArray[np.int16] | str:
    torch.set_num_threads(1)
    try:
        return (load(utterance.audio) * 32767).round().clamp(-32768, 32767).to(torch.int16).numpy()
    except AudioError as error:
        return str(error)


class Corpus(Dataset[Item]):
    """A packed corpus with its texts as tokens.

    Raises:
        DataError: if `folder` holds none.
    """

    def __init__(self, folder: Path) -> None:
        try:
            lines = (folder / _INDEX).read_text(encoding="utf-8").splitlines()
            self._audio = np.memmap(folder / _AUDIO, dtype=np.int16, mode="r")
        except OSError as error:
            raise DataError(f"{folder}: not a packed corpus: {error.strerror} ({error.filename})") from None
        except ValueError as error:
            raise DataError(f"{folder}: not a packed corpus: {error}") from None
        try:
            self.entries = [Entry(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise DataError(f"{folder / _INDEX}: not the index of a packed corpus: {error}") from None
        samples = sum(e.samples for e in self.entries)
        if samples != len(self._audio):
            raise DataError(
                f"{folder}: {_INDEX} speaks of {samples} samples, but {_AUDIO} has {len(self._audio)}: pack it again"
            )
        self._tokens: list[list[int]] = []

    def tokenise(self, tokenizer: Tokenizer, config: DataConfig) -> Corpus:
        """Encode the texts, and leave out what is too short, too long, or has no token the tokenizer knows."""
        inside = [e for e in self.entries if config.min_seconds <= e.seconds <= config.max_seconds]
        pairs = [(e, tokenizer.encode(e.text)) for e in inside]
        # CTC needs a frame for each token: at most one token for every 80 ms of audio.
        kept = [(e, t) for e, t in pairs if t and len(t) <= e.seconds / 0.08]
        self.entries, self._tokens = [e for e, _ in kept], [t for _, t in kept]
        return self

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Item:
        entry = self.entries[index]
        samples = self._audio[entry.start : entry.start + entry.samples]
        return Item(torch.from_numpy(samples.astype(np.float32) / 32768), torch.tensor(self._tokens[index]))


class BucketSampler(Sampler[list[int]]):
    """Endless batches of utterances of similar length, up to `batch_seconds` with padding, in a random order.

    The batches depend on the seed and their number alone, so that a run that was killed goes on where it stopped. The
    first `sorted_passes` over the data go from short to long, which is easiest to begin with.
    """

    def __init__(self, seconds: Sequence[float], config: DataConfig, seed: int) -> None:
        if not seconds:
            raise DataError("no utterance is left to train on: see data.min_seconds and data.max_seconds")
        self._seconds = np.asarray(seconds)
        self._config, self._seed, self._first = config, seed, 0

    def start_at(self, batch: int) -> None:
        """Leave out the first `batch` batches."""
        self._first = batch

    def one_pass(self, number: int) -> list[list[int]]:
        """The batches of one pass over the data."""
        rng = np.random.default_rng((self._seed, number))
        # A little noise in the order of lengths, so that utterances meet others from pass to pass.
        order = np.argsort(self._seconds * rng.uniform(0.95, 1.05, len(self._seconds)), kind="stable")
        batches: list[list[int]] = [[]]
        longest = 0.0
        for index in order.tolist():
            longest = max(longest, self._seconds[index])
            if batches[-1] and longest * (len(batches[-1]) + 1) > self._config.batch_seconds:
                batches.append([])
                longest = self._seconds[index]
            batches[-1].append(index)
        if number >= self._config.sorted_passes:
            rng.shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        number, left_out = 0, 0
        while True:
            batches = self.one_pass(number)
            yield from batches[max(0, self._first - left_out) :]
            number, left_out = number + 1, left_out + len(batches)


class LasData(pl.LightningDataModule):
    """The batches of a run: `train` in buckets from where the trainer stands, `dev` in order of length."""

    def __init__(self, train: Corpus, dev: Corpus, config: DataConfig, seed: int) -> None:
        super().__init__()
        self._train, self._dev, self._config, self._seed = train, dev, config, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        sampler = BucketSampler([e.seconds for e in self._train.entries], self._config, self._seed)
        sampler.start_at(self.trainer.global_step if self.trainer else 0)
        return DataLoader(
            self._train,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self._config.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        order = sorted(range(len(self._dev)), key=lambda i: self._dev.entries[i].samples)
        batches = [order[i : i + 16] for i in range(0, len(order), 16)]
        return DataLoader(self._dev, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]


def collate(items: Sequence[Item]) -> Batch:
    """Pad items to one batch."""
    waveforms, tokens = [i.waveform for i in items], [i.tokens for i in items]
    return Batch(
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(w) for w in waveforms]),
        pad_sequence(tokens, batch_first=True, padding_value=BLANK),
        torch.tensor([len(t) for t in tokens]),
    )
