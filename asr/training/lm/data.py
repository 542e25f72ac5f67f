"""Text for a language model: tokenised once into a flat file, then batched by length.

Every sentence is a row of its own from sos to eos, like a hypothesis in the search.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.config import require
from asr.errors import DataError
from asr.files import hash_file, replacing, write_atomically
from asr.text.normalise import normalise
from asr.text.tokenizer import BLANK, EOS, SOS, Tokenizer
from asr.training.lm.config import LmTrainConfig

__all__ = ["Batch", "Position", "Sentences", "Source", "parse_source", "tokenise"]

_TOKENS, _INDEX = "tokens.u16", "tokens.json"
_MOST_TOKENS = 1 << 16  # the range of two bytes
_LINES_AT_A_TIME = 20_000
_DEV_SENTENCES = 5_000  # more would not make the measurement more precise
_POOL = 16_384  # shuffled sentences sorted by length together: a larger pool means less padding


class Source(NamedTuple):
    """A text, and how often a pass reads it; `times` 0 marks a held-out text."""

    path: Path
    times: int


class Batch(NamedTuple):
    """Rows of similar length, padded with BLANK."""

    inputs: Tensor  # (B, U), beginning with sos
    targets: Tensor  # (B, U), the next token of each input; ends with eos


class Position(NamedTuple):
    """Position of a run in the data: pass, pool of the pass, batch of the pool."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


def parse_source(text: str) -> Source:
    """Parse `FILE` or `FILE@TIMES`; the latter is read several times in a pass.

    Raises:
        DataError: if there is no such file, or it is a folder, a pipe or a device.
    """
    found = re.fullmatch(r"(.+)@([1-9][0-9]{0,3})", text)
    if found and not Path(text).exists():
        source = Source(Path(found[1]), int(found[2]))
    else:
        source = Source(Path(text), 1)
    if (problem := _problem(source.path)) is not None:
        raise DataError(f"{source.path}: {problem}")
    return source


def _problem(path: Path) -> str | None:
    """The reason why a path is not a readable text; None if it is one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return None
        if path.samefile(os.devnull):
            return "no text in it"
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "is a folder, not a text"
    # Its checksum is needed before the text is read, and again when the run is resumed.
    return "is a pipe or a device, and a text is read more than once: write it to a file first"


def _read(path: Path) -> Iterator[str | None]:
    """Normalised sentences of a text (one per line) or of JSON lines; None for a sentence outside the alphabet."""
    manifest = path.suffix in (".jsonl", ".json")
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                text = _text(line, f"{path}:{number}") if manifest else line
                if text is not None:  # null: not transcribed
                    yield normalise(text)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _text(line: str, where: str) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(record, dict) or not (text is None or isinstance(text, str)):
        raise DataError(f"{where}: expected an object whose text is a string or null")
    return text


@dataclass(frozen=True)
class Sentences:
    """Tokenised text, memory-mapped, as pieces of at most `max_tokens`."""

    tokens: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]  # reads of each piece per pass
    dev: npt.NDArray[np.int64]  # held-out pieces
    left_out: int  # sentences outside the alphabet

    def batches(self, position: Position, config: LmTrainConfig) -> Iterator[tuple[Batch, Position, float]]:
        """Endless shuffled batches from a position on, each with the next position and the passes done by then."""
        while True:
            random = np.random.default_rng([config.seed, position.epoch])
            order = random.permutation(np.repeat(np.arange(len(self.starts)), self.times))
            pools = -(-len(order) // _POOL)
            while position.pool < pools:
                rows = self._batches(order[position.pool * _POOL : (position.pool + 1) * _POOL], config.batch_tokens)
                np.random.default_rng([config.seed, position.epoch, position.pool]).shuffle(rows)
                while position.batch < len(rows):
                    chosen = rows[position.batch]
                    position = position._replace(batch=position.batch + 1)
                    share = (position.pool + position.batch / len(rows)) / pools
                    yield self.batch(chosen), position, position.epoch + share
                position = Position(position.epoch, position.pool + 1)
            position = Position(position.epoch + 1)

    @property
    def learned_tokens(self) -> int:
        """Tokens per pass, eos included."""
        return int((self.lengths * self.times).sum())

    @property
    def dev_tokens(self) -> int:
        return int(self.lengths[self.dev].sum())

    def dev_batches(self, batch_tokens: int) -> Iterator[Batch]:
        return map(self.batch, self._batches(self.dev, batch_tokens))

    def _batches(self, pieces: npt.NDArray[np.int64], batch_tokens: int) -> list[npt.NDArray[np.int64]]:
        """Batches of pieces of similar length, each with at most `batch_tokens` tokens, including padding."""
        pieces = pieces[np.argsort(self.lengths[pieces], kind="stable")]
        cuts, first = [], 0
        for i, length in enumerate(self.lengths[pieces].tolist()):
            if (i - first + 1) * length > batch_tokens:
                cuts.append(i)
                first = i
        return np.split(pieces, cuts)

    def batch(self, pieces: npt.NDArray[np.int64]) -> Batch:
        lengths = self.lengths[pieces][:, None]
        places = np.arange(int(lengths.max()))
        indices = np.minimum(self.starts[pieces][:, None] + places, len(self.tokens) - 1)
        targets = np.where(places < lengths, self.tokens[indices], BLANK).astype(np.int64)
        inputs = np.concatenate([np.full_like(targets[:, :1], SOS), targets[:, :-1]], axis=1)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))


def tokenise(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    folder: Path,
    config: LmTrainConfig,
    advance: Callable[[int, int], None],
) -> Sentences:
    """Tokenise texts into `folder`, or reuse what it holds.

    Without a held-out source, the last `config.held_out` of each text is held out.

    Args:
        sources: one or more.
        tokenizer: the recogniser's.
        folder: gets `tokens.u16`, all sentences with an eos after each, and `tokens.json`.
        config: the run's settings.
        advance: called with the bytes read and the total.

    Raises:
        ConfigError: if the tokenizer has too many tokens.
        DataError: if a text cannot be read or has no sentence that can be used, or the folder holds other text.
    """
    require(len(tokenizer) <= _MOST_TOKENS, "the tokenizer's size", len(tokenizer), f"at most {_MOST_TOKENS}")
    index, tokens = folder / _INDEX, folder / _TOKENS
    wanted = _fingerprint(sources, tokenizer)
    if index.exists() and tokens.exists():
        try:
            known = json.loads(index.read_text(encoding="utf-8"))
            same = known["fingerprint"] == wanted
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{index}: damaged; delete it to read the text again") from None
        if not same:
            raise DataError(f"{folder}: holds a run with other text or another tokenizer; use another folder")
    else:
        counts = _write(sources, tokenizer, tokens, advance)
        known = {"fingerprint": wanted, "sentences": counts}
        write_atomically(index, json.dumps(known, indent=2) + "\n")
    return _pieces(np.memmap(tokens, np.uint16, "r"), sources, known["sentences"], config)


def _fingerprint(sources: Sequence[Source], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.model)
    for source in sources:
        digest.update(f"{source.times} {source.path.stat().st_size} ".encode())
        hash_file(digest, source.path)
    return digest.hexdigest()


def _write(
    sources: Sequence[Source], tokenizer: Tokenizer, path: Path, advance: Callable[[int, int], None]
) -> list[dict[str, int]]:
    """Write the flat file; returns the numbers of sentences kept and left out for each source."""
    total, before, counts = sum(s.path.stat().st_size for s in sources), 0, []
    with replacing(path) as part, part.open("wb") as file:
        for source in sources:
            kept = left_out = 0
            sentences = _read(source.path)
            done = before
            while some := list(itertools.islice(sentences, _LINES_AT_A_TIME)):
                texts = [text for text in some if text]
                kept, left_out = kept + len(texts), left_out + len(some) - len(texts)
                rows = tokenizer.encode_many(texts)
                file.write(np.fromiter(itertools.chain.from_iterable([*r, EOS] for r in rows), np.uint16).tobytes())
                done += sum(len(text) + 1 for text in texts)
                advance(min(done, total), total)
            if not kept:
                raise DataError(f"{source.path}: contains no usable sentence")
            counts.append({"kept": kept, "left_out": left_out})
            before += source.path.stat().st_size
    return counts


def _pieces(
    tokens: npt.NDArray[np.uint16], sources: Sequence[Source], counts: list[dict[str, int]], config: LmTrainConfig
) -> Sentences:
    ends = np.flatnonzero(tokens == EOS) + 1
    starts = np.concatenate([[0], ends[:-1]])
    times, held_out, first = np.zeros(len(ends), np.int64), [], 0
    has_dev_text = any(source.times == 0 for source in sources)
    for source, count in zip(sources, counts, strict=True):
        after = first + count["kept"]
        dev = after if has_dev_text else after - max(1, round(config.held_out * count["kept"]))
        times[first:dev] = source.times
        held_out.append(np.arange(first if source.times == 0 else dev, after))
        first = after
    if not times.any():
        raise DataError("no sentence is left to train on")
    dev_sentences = np.concatenate(held_out)
    dev_sentences = dev_sentences[:: -(-len(dev_sentences) // _DEV_SENTENCES)]
    # The rest of a long sentence becomes a sentence of its own, as when the recogniser cuts a segment.
    parts = -(-(ends - starts) // config.max_tokens)
    sentence = np.repeat(np.arange(len(ends)), parts)
    number = np.arange(len(sentence)) - np.repeat(np.cumsum(parts) - parts, parts)
    piece_starts = starts[sentence] + number * config.max_tokens
    lengths = np.minimum(ends[sentence] - piece_starts, config.max_tokens)
    dev_pieces = np.flatnonzero(np.isin(sentence, dev_sentences))
    left_out = sum(count["left_out"] for count in counts)
    return Sentences(tokens, piece_starts, lengths, times[sentence], dev_pieces, left_out)
