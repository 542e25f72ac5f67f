"""The rows of a manifest as named fields, from any of its forms: JSON lines, a JSON array, CSV, TSV, or a folder.

`asr.archive.manifest` interprets the fields.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr.archive.folders import audio_files
from asr.errors import AudioError, DataError

__all__ = ["SUFFIXES", "Fields", "content", "rows"]

SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".tsv"})
"""Suffixes of manifest files, in lower case."""

Fields = dict[str, Any]
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def rows(path: Path, required: Sequence[str]) -> Iterator[tuple[str, Fields | DataError]]:
    """The location of each row (`FILE:LINE`, or an audio file in a folder) with its fields or its error.

    - CSV and TSV need a header; its names are converted to lower case, and an empty cell is None. CSV may be separated
      by semicolons. TSV has no quotes, as in Common Voice.
    - A folder gives `audio` for each audio file in it and below it, and `text` from NAME.txt beside it, or None.

    Args:
        path: the manifest.
        required: the header of a table must have one of these names.

    Raises:
        DataError: the manifest cannot be read, is in UTF-16, has no row, or is a table without such a header.
    """
    if path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        found = _table(content(path), path, required)
    else:
        found = _records(content(path), path)
    empty = True
    for row in found:
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: the manifest is empty; expected at least one utterance")


def content(path: Path) -> bytes:
    """The bytes of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: the file cannot be read, is in UTF-16, or is no text.
    """
    try:
        found = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found.startswith(_UTF16_MARKS) or found[:2].count(0) == 1:
        raise DataError(f"{path}: the text is UTF-16; save it as UTF-8")
    if b"\0" in found:  # one error, where each "line" of a recording would give its own
        raise DataError(f"{path}: is not a text file")
    return found.removeprefix(b"\xef\xbb\xbf")


def _records(document: bytes, path: Path) -> Iterator[tuple[str, Fields | DataError]]:
    """JSON lines, or one JSON array of objects."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):  # several lines, or a broken one
        numbered = ((number, line) for number, line in enumerate(document.split(b"\n"), start=1) if line.strip())
        for number, line in numbered:
            place = f"{path}:{number}"
            try:
                yield place, _object(json.loads(line.decode("utf-8")), place)
            except (ValueError, RecursionError) as error:
                yield place, DataError(f"{place}: not JSON: {error}")
        return
    for number, record in enumerate(parsed if isinstance(parsed, list) else [parsed], start=1):
        place = f"{path}:{number}"
        yield place, _object(record, place)


def _object(record: object, place: str) -> Fields | DataError:
    if isinstance(record, dict):
        return record
    return DataError(f"{place}: expected a JSON object, found {type(record).__name__}")


def _table(document: bytes, path: Path, required: Sequence[str]) -> Iterator[tuple[str, Fields | DataError]]:
    text = document.decode("utf-8", errors="surrogateescape")
    header = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        delimiter = ";" if header.count(";") > header.count(",") else ","
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names: list[str] = []
    while True:
        first = lines.line_num + 1
        place = f"{path}:{first}"
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, DataError(f"{place}: not a row of a table: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = [cell.strip().lower() for cell in cells]
            if not {*required} & {*names}:
                raise DataError(f"{place}: no header with a column {', '.join(required[:-1])} or {required[-1]}")
        elif len(cells) != len(names):
            yield place, DataError(f"{place}: {len(cells)} columns; the header has {len(names)}")
        elif any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
            yield place, DataError(f"{place}: the text is not UTF-8")
        else:
            yield place, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _folder(folder: Path) -> Iterator[tuple[str, Fields | DataError]]:
    for found in audio_files(str(folder)):
        if isinstance(found, AudioError):
            yield found.source, DataError(str(found))
            continue
        beside = Path(found).with_suffix(".txt")
        try:
            text = content(beside).decode("utf-8") if beside.is_file() else None
        except DataError as error:
            yield found, error
        except UnicodeDecodeError:
            yield found, DataError(f"{beside}: the text is not UTF-8")
        else:
            yield found, {"audio": os.path.relpath(found, folder), "text": text and " ".join(text.split())}
