"""Punctuated text as flat arrays, read once."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.config import PunctuationConfig
from asr.errors import DataError
from asr.files import hash_file, replacing, write_atomically
from asr.training.punctuation.reading import case_of, read_line
from asr.writing.parts import SENTENCE_ENDS
from asr.writing.vocabulary import Case, Vocabulary, Words

__all__ = ["IGNORED", "Text", "read_texts", "sentence_end_numbers", "sentence_ends"]

IGNORED = 255  # case of a word with unknown capitals, at the beginning of a sentence

_ARRAYS, _INDEX = "text.npz", "text.json"
_LEAST_COUNT = 3  # occurrences of a word inside sentences before its capitals there are trusted
_SURE = 0.95  # share of one case inside sentences for it to be assumed at their beginning
_LEAST_MIXED = 3
_LINES_AT_A_TIME = 2_000


@dataclass(frozen=True)
class Text:
    """Words of all texts one after the other, by number of their type."""

    types: npt.NDArray[np.int32]  # (words,)
    marks: npt.NDArray[np.uint8]  # number in the model's marks
    cases: npt.NDArray[np.uint8]  # Case, or IGNORED
    regions: npt.NDArray[np.int64]  # (texts, 3): first training word, first held-out word, end
    times: tuple[int, ...]  # reads of each text per pass
    encoded: Words  # of each type
    vocabulary: Vocabulary

    @property
    def learned_words(self) -> int:
        """Words per pass."""
        return sum(
            (int(after) - int(first)) * times for (first, after, _), times in zip(self.regions, self.times, strict=True)
        )

    @property
    def held_out_words(self) -> int:
        return int((self.regions[:, 2] - self.regions[:, 1]).sum())


def read_texts(
    sources: Sequence[tuple[Path, int]],
    folder: Path,
    config: PunctuationConfig,
    held_out: float,
    advance: Callable[[int, int], None],
    vocabulary: Vocabulary | None = None,
) -> Text:
    """Read texts into `folder`, or reuse what it holds.

    Args:
        sources: paths of texts with a paragraph or sentence a line, and how often a pass reads each.
        folder: gets `text.npz` and `text.json`.
        config: the model's.
        held_out: share at the end of each text.
        advance: called with the bytes read and the total.
        vocabulary: of the initial model; its frequent words are kept, and words of mixed case in the text are added to
            its lexicon. None: it is built from the text.

    Raises:
        DataError: a text cannot be read or has no punctuated line, or the folder holds other text or words.
    """
    wanted = _fingerprint(sources, config, vocabulary)
    arrays, index = folder / _ARRAYS, folder / _INDEX
    if index.exists() and arrays.exists():
        try:
            known = json.loads(index.read_text(encoding="utf-8"))
            same, names, written = known["fingerprint"] == wanted, known["types"], known["written"]
            with arrays.open("rb") as file:  # `np.load` would leave a damaged file open
                loaded = np.load(file, allow_pickle=False)
                flat = {name: loaded[name] for name in ("types", "marks", "cases", "first", "ends")}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            raise DataError(f"{index} or {arrays.name}: damaged; delete both to read the text again") from None
        if not same:
            raise DataError(f"{folder}: holds a run with other text or another --init; use another folder")
    else:
        flat, names, written = _read(sources, config, advance)
        with replacing(arrays) as part:
            np.savez(part, **flat)  # type: ignore[arg-type]
        write_atomically(index, json.dumps({"fingerprint": wanted, "types": names, "written": written}))
    return _text(flat, names, written, [times for _, times in sources], config, held_out, vocabulary)


def _fingerprint(sources: Sequence[tuple[Path, int]], config: PunctuationConfig, vocabulary: Vocabulary | None) -> str:
    digest = hashlib.sha256(json.dumps(config.marks).encode())
    if vocabulary is not None:
        digest.update(json.dumps([vocabulary.words, vocabulary.lexicon]).encode())
    for path, _ in sources:
        digest.update(f"{path.stat().st_size} ".encode())
        hash_file(digest, path)
    return digest.hexdigest()


def _read(
    sources: Sequence[tuple[Path, int]], config: PunctuationConfig, advance: Callable[[int, int], None]
) -> tuple[dict[str, npt.NDArray[Any]], list[str], list[str]]:
    """Arrays of all words, the names of the types, and the words of mixed case, the most frequent first."""
    total, done = sum(path.stat().st_size for path, _ in sources), 0
    names: dict[str, int] = {}
    written: Counter[str] = Counter()
    types, marks, cases, first, ends = [], bytearray(), bytearray(), bytearray(), []
    numbers = {mark: number for number, mark in enumerate(config.marks)}
    for path, _ in sources:
        before = len(marks)
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines):
                    done += len(line.encode())
                    for target in read_line(line):
                        case = case_of(target.word, target.written)
                        if case == Case.MIXED:
                            written[target.written] += 1
                        types.append(names.setdefault(target.word, len(names)))
                        marks.append(numbers.get(target.mark, 0))
                        cases.append(case)
                        first.append(target.first)
                    if number % _LINES_AT_A_TIME == 0:
                        advance(done, total)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        if len(marks) == before:
            raise DataError(f"{path}: has no line that ends with a full stop, question or exclamation mark")
        ends.append(len(marks))
    flat: dict[str, npt.NDArray[Any]] = {
        "types": np.array(types, np.int32),
        "marks": np.frombuffer(bytes(marks), np.uint8),
        "cases": np.frombuffer(bytes(cases), np.uint8),
        "first": np.frombuffer(bytes(first), np.uint8),
        "ends": np.array(ends, np.int64),
    }
    mixed = [word for word, count in written.most_common() if count >= _LEAST_MIXED]
    return flat, list(names), mixed


def _text(
    flat: dict[str, npt.NDArray[Any]],
    names: Sequence[str],
    written: Iterable[str],
    times: Sequence[int],
    config: PunctuationConfig,
    held_out: float,
    vocabulary: Vocabulary | None,
) -> Text:
    types, found = flat["types"].astype(np.int32), flat["cases"].astype(np.uint8)
    first = flat["first"].astype(bool)
    lexicon: dict[str, str] = {}
    for word in written:  # the most frequent first
        lexicon.setdefault(word.lower(), word)
    if vocabulary is not None:
        lexicon = {**vocabulary.lexicon, **lexicon}

    # A capital at the beginning of a sentence is uninformative, unless the word also has it inside sentences.
    inside = np.zeros((len(names), len(Case)), np.int64)
    np.add.at(inside, (types[~first], found[~first]), 1)
    counts = inside.sum(1)
    sure = (counts >= _LEAST_COUNT) & (inside.max(1) >= _SURE * counts)
    own = np.where(sure, inside.argmax(1), IGNORED).astype(np.uint8)
    cases = np.where(first & (found == Case.CAPITAL), own[types], found)
    known = np.array([name in lexicon or name.removesuffix("'s") in lexicon for name in names])
    cases = np.where((found == Case.MIXED) & ~known[types], IGNORED, cases).astype(np.uint8)

    starts = np.concatenate([[0], flat["ends"][:-1]]).astype(np.int64)
    ends = flat["ends"].astype(np.int64)
    regions = np.stack([starts, ends - np.maximum(1, (held_out * (ends - starts)).astype(np.int64)), ends], axis=1)
    frequent: Sequence[str]
    if vocabulary is not None:
        frequent = vocabulary.words
    else:
        occurrences = np.bincount(types, minlength=len(names))
        frequent = [names[i] for i in np.argsort(-occurrences, kind="stable")[: config.words] if occurrences[i] > 1]
    vocabulary = Vocabulary(frequent, lexicon, config.buckets)
    return Text(
        types,
        flat["marks"].astype(np.uint8),
        cases,
        regions,
        tuple(times),
        vocabulary.encode(names),
        vocabulary,
    )


def sentence_ends(marks: npt.NDArray[np.uint8], config: PunctuationConfig) -> npt.NDArray[np.bool_]:
    """Where a mark ends a sentence."""
    return np.isin(marks, sentence_end_numbers(config))


def sentence_end_numbers(config: PunctuationConfig) -> list[int]:
    """Numbers of the marks that end a sentence."""
    return [number for number, mark in enumerate(config.marks) if mark in SENTENCE_ENDS]
