"""Training rows: text made to resemble a recogniser's output, with errors, pauses and cuts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.training.punctuation.config import SHORTEST_PAUSE_SECONDS, PauseConfig, PunctuationTrainConfig
from asr.training.punctuation.data import IGNORED, Text, sentence_ends
from asr.writing.parts import CONTEXT_WORDS
from asr.writing.vocabulary import PAUSE_EDGES, Pause

__all__ = ["Batch", "dev_batches", "training_batch"]

_LENGTHS = (16, 32, 64, 112)  # words of a row; a batch has rows of one length
_WHOLE_SHARE = 0.5  # of rows: they begin and end with a sentence
_UNFINISHED_SHARE = 0.5  # of the other rows: they end anywhere, like an unfinished segment
_BOUNDARY_SHARE = 0.5  # of rows with a long pause near the start: the words before it are the previous segment
_TEMPO_SPREAD = 0.3  # of the pauses of different speakers, in log units
_DEV_LENGTH = 64  # words of a held-out row
_DEV_WORDS = 60_000  # at most, held-out words of all texts together


class Batch(NamedTuple):
    """Rows padded at the end."""

    words: Tensor  # (N, T)
    pieces: Tensor  # (N, T, PIECES)
    pauses: Tensor  # (N, T)
    lengths: Tensor  # (N,)
    marks: Tensor  # (N, T), IGNORED in the padding
    cases: Tensor  # (N, T), IGNORED in the padding and where unknown


class _Rows(NamedTuple):
    types: npt.NDArray[np.int32]  # (N, T), like the others
    marks: npt.NDArray[np.uint8]
    cases: npt.NDArray[np.uint8]


def training_batch(text: Text, config: PunctuationTrainConfig, step: int) -> Batch:
    """The batch of a step, which depends on nothing else, so that a run can resume at any step."""
    random = np.random.default_rng([config.seed, step])
    length = int(random.choice(_LENGTHS))
    count = max(1, config.batch_words // length)
    sizes = (text.regions[:, 1] - text.regions[:, 0]) * np.array(text.times)
    chosen = random.choice(len(sizes), size=count, p=sizes / sizes.sum())
    first, after = text.regions[chosen, 0], text.regions[chosen, 1]
    starts = first + (random.random(count) * np.maximum(1, after - first - length)).astype(np.int64)
    whole = random.random(count) < _WHOLE_SHARE
    starts[whole] = _sentence_starts(text, config, starts[whole], length)
    rows, lengths = _cut(text, starts, after, length)
    ends = sentence_ends(rows.marks, config.model) & _inside(lengths, length)
    lengths = np.where(whole & ends.any(1), _last(ends), lengths)
    rows, lengths = _with_errors(rows, lengths, text, config, random)
    return _with_pauses(rows, lengths, whole, text, config, random)


def dev_batches(text: Text, config: PunctuationTrainConfig) -> Iterator[Batch]:
    """Held-out words in rows that end at a long pause, as segments do, without errors; every second row has pauses."""
    random = np.random.default_rng(config.seed)
    each = max(_DEV_LENGTH, _DEV_WORDS // len(text.regions))
    for _, start, end in text.regions.tolist():
        starts = np.arange(start, min(end, start + each), _DEV_LENGTH)
        rows, lengths = _cut(text, starts, np.full(len(starts), end), _DEV_LENGTH)
        seconds = _draw(rows.marks, config.pauses, sentence_ends(rows.marks, config.model), random)
        pauses = Pause.SHORTEST + np.searchsorted(PAUSE_EDGES, seconds, side="right")
        pauses[::2] = Pause.UNKNOWN
        long = (seconds >= config.pauses.cut_seconds) & _inside(lengths, _DEV_LENGTH)
        lengths = np.where(long.any(1), _last(long), lengths)
        ends = np.where(long.any(1), int(Pause.END), int(Pause.UNFINISHED))
        pauses[np.arange(len(starts)), lengths - 1] = ends
        yield _tensors(rows, lengths, pauses, text)


def _inside(lengths: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Where rows have words rather than padding."""
    return np.asarray(np.arange(width) < lengths[:, None])


def _last(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Words up to and including the last true one of each row."""
    return np.asarray(where.shape[1] - where[:, ::-1].argmax(1))


def _sentence_starts(
    text: Text, config: PunctuationTrainConfig, starts: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.int64]:
    """The first start of a sentence at or after each position, if there is one within `length` words."""
    places = np.minimum(starts[:, None] + np.arange(length), len(text.marks) - 1)
    ends = sentence_ends(text.marks[places], config.model)
    return np.where(ends.any(1), starts + ends.argmax(1) + 1, starts)


def _cut(
    text: Text, starts: npt.NDArray[np.int64], after: npt.NDArray[np.int64], length: int
) -> tuple[_Rows, npt.NDArray[np.int64]]:
    """Rows of up to `length` words from each start, none beyond `after`; also their lengths."""
    lengths = np.minimum(length, after - starts).clip(1)
    places = np.minimum(starts[:, None] + np.arange(length), len(text.types) - 1)
    return _Rows(text.types[places], text.marks[places], text.cases[places]), lengths


def _with_errors(
    rows: _Rows,
    lengths: npt.NDArray[np.int64],
    text: Text,
    config: PunctuationTrainConfig,
    random: np.random.Generator,
) -> tuple[_Rows, npt.NDArray[np.int64]]:
    """Words substituted, deleted and inserted; the mark of a deleted word moves to the one before it."""
    types, marks, cases = (each.copy() for each in rows)
    shape, errors = types.shape, config.errors
    strength = random.random(shape[0])[:, None] * 2 * (random.random(shape[0]) >= errors.clean)[:, None]
    inside = _inside(lengths, shape[1])

    def strangers() -> npt.NDArray[np.int32]:
        places = random.integers(len(text.types), size=shape)  # with the word frequencies of the text
        return np.asarray(text.types[places])

    substituted = random.random(shape) < errors.substituted * strength
    types[substituted] = strangers()[substituted]
    cases[substituted] = IGNORED
    deleted = (random.random(shape) < errors.deleted * strength) & inside
    deleted[:, 0] = False
    moves = deleted[:, 1:] & (marks[:, :-1] == 0)
    marks[:, :-1][moves] = marks[:, 1:][moves]
    inserted = (random.random(shape) < errors.inserted * strength) & inside

    # Two slots for each word, the first for one inserted before it; unused slots are sorted to the end.
    keep = np.stack([inserted, inside & ~deleted], axis=2).reshape(shape[0], -1)
    order = np.argsort(~keep, axis=1, kind="stable")[:, : shape[1]]
    pairs = [
        np.stack([strangers(), types], axis=2),
        np.stack([np.zeros_like(marks), marks], axis=2),
        np.stack([np.full_like(cases, IGNORED), cases], axis=2),
    ]
    found = [np.take_along_axis(pair.reshape(shape[0], -1), order, axis=1) for pair in pairs]
    return _Rows(*found), np.minimum(keep.sum(1), shape[1]).clip(1)


def _draw(
    marks: npt.NDArray[np.uint8], config: PauseConfig, ends: npt.NDArray[np.bool_], random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Seconds after each word, given its mark."""
    kinds = np.where(ends, 2, (marks > 0).astype(int))
    unrelated = random.random(len(marks)) < config.unrelated
    kinds[unrelated] = random.permuted(kinds[unrelated], axis=1)
    median, spread, share = np.array([config.plain, config.comma, config.end]).T
    tempo = np.exp(random.normal(0, _TEMPO_SPREAD, (len(marks), 1)))
    seconds = median[kinds] * tempo * np.exp(spread[kinds] * random.standard_normal(marks.shape))
    return np.where(random.random(marks.shape) < share[kinds], np.maximum(seconds, SHORTEST_PAUSE_SECONDS), 0.0)


def _with_pauses(
    rows: _Rows,
    lengths: npt.NDArray[np.int64],
    whole: npt.NDArray[np.bool_],
    text: Text,
    config: PunctuationTrainConfig,
    random: np.random.Generator,
) -> Batch:
    """The batch with drawn pauses: rows end at a long one, and some contain the boundary of an earlier segment."""
    count, width = rows.types.shape
    seconds = _draw(rows.marks, config.pauses, sentence_ends(rows.marks, config.model), random)
    long = (seconds >= config.pauses.cut_seconds) & _inside(lengths, width)
    goes_on = ~whole & (random.random(count) < _UNFINISHED_SHARE)
    cut = ~whole & ~goes_on & long.any(1)
    lengths = np.where(cut, _last(long), lengths)

    pauses = Pause.SHORTEST + np.searchsorted(PAUSE_EDGES, seconds, side="right")
    pauses[random.random(count) < config.pauses.unknown] = Pause.UNKNOWN
    long &= np.arange(width) < np.minimum(CONTEXT_WORDS, lengths - 2)[:, None]
    for row in np.flatnonzero(long.any(1) & (random.random(count) < _BOUNDARY_SHARE)):
        boundary = random.choice(np.flatnonzero(long[row]))
        pauses[row, :boundary] = Pause.UNKNOWN
        pauses[row, boundary] = Pause.END
    last = np.arange(count), lengths - 1
    pauses[last] = np.where(goes_on, int(Pause.UNFINISHED), int(Pause.END))
    return _tensors(rows, lengths, pauses, text)


def _tensors(rows: _Rows, lengths: npt.NDArray[np.int64], pauses: npt.NDArray[np.int64], text: Text) -> Batch:
    inside = _inside(lengths, rows.types.shape[1])
    return Batch(
        torch.from_numpy(text.encoded.words[rows.types]),
        torch.from_numpy(text.encoded.pieces[rows.types]),
        torch.from_numpy(pauses),
        torch.from_numpy(lengths),
        torch.from_numpy(np.where(inside, rows.marks, IGNORED).astype(np.int64)),
        torch.from_numpy(np.where(inside, rows.cases, IGNORED).astype(np.int64)),
    )
