r"""Transcripts as rows, one for each source, in a JSON lines file or a Parquet data set.

A row is `{"source", "duration_seconds", "text", "segments", "error"}`: the fields of the json format, and `error`. It
is null, or the reason why there is no transcript (the other fields are null) or an incomplete one (`keep_damaged`). For
text in written form, `spoken` holds the recognised words; otherwise it is absent, in Parquet null. `source` is the
absolute path. A byte of it that is not UTF-8 is in JSON an escape like `\udcff`, which `json.loads` and `os.fsencode`
turn into that byte; Parquet cannot hold it, and has the escape as text. The rows themselves record the finished
sources, so an interrupted run can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import AudioError, ConfigError, DataError, SpellstreamError
from asr.files import absolute, write_atomically
from asr.output.formats import render

if TYPE_CHECKING:
    import pyarrow

    from asr.output.timed import TimedText

__all__ = ["SUFFIXES", "Rows", "open_rows"]

SUFFIXES = (".jsonl", ".parquet")

# A part is written when it has this many segments or its first row is this old; a killed run loses no more.
_PART_SEGMENTS, _PART_SECONDS = 10_000, 60.0


def open_rows(path: Path, *, resume: bool) -> Rows:
    """Open `NAME.jsonl`, a file, or `NAME.parquet`, a folder of parts, to write rows.

    With `resume`, existing rows are kept, except those with an error.

    Raises:
        ConfigError: another suffix, or rows exist already and `resume` is false.
        DataError: the path holds something else, or cannot be read or written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    try:
        if not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists already: --resume continues it")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Rows(_JsonLines(path) if path.suffix.lower() == ".jsonl" else _Parquet(path))


class Rows:
    """Writes one row per source; made by `open_rows`. A second row for a source is dropped."""

    def __init__(self, store: _JsonLines | _Parquet) -> None:
        self._store, self._held = store, store.held
        self.notes: Sequence[str] = ()

    def obstacle(self, source: str) -> DataError | None:
        """None: a row can be written for any source."""
        return None

    def holds(self, source: str) -> bool:
        """Whether the source has a row without an error."""
        return _valid(absolute(source)) in self._held

    def write(self, source: str, transcript: TimedText, error: SpellstreamError | None = None) -> None:
        """Add a row with the transcript; `error` is the reason why it is incomplete."""
        self._add(source, json.loads(render(transcript, "json")), error)

    def fail(self, source: str, error: SpellstreamError) -> None:
        """Add a row with the reason why there is no transcript."""
        self._add(source, {"duration_seconds": None, "text": None, "segments": None}, error)

    def close(self) -> None:
        self._store.close()

    def _add(self, source: str, said: dict[str, Any], error: SpellstreamError | None) -> None:
        name = absolute(source)
        reason = None if error is None else error.reason if isinstance(error, AudioError) else str(error)
        if _valid(name) not in self._held:
            self._store.append(said | {"source": name, "error": reason})
            self._held.add(_valid(name))


class _JsonLines:
    """A JSON lines file, each row written at once; `held` has the sources of existing rows, as `_valid` gives them."""

    def __init__(self, path: Path) -> None:
        self.path, self.held = path, set[str]()
        try:
            if path.exists():
                self._take_up()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _take_up(self) -> None:
        """Collect the sources of existing rows; drop rows with an error, and an incomplete last line."""
        dropped = False
        for line in _lines(self.path):
            if line is None or line[1]["error"] is not None:
                dropped = True
            else:
                self.held.add(_valid(line[1]["source"]))
        if not dropped:
            return
        target = Path(os.path.realpath(self.path))
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("wb") as file:
            file.writelines(line[0] for line in _lines(self.path) if line and line[1]["error"] is None)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def append(self, row: dict[str, Any]) -> None:
        # A lone surrogate becomes an escape that is valid in JSON.
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)  # the next row must not follow a partial one
            raise DataError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Wait until the rows are on the disk, which may report only then that it is full."""
        with self._file:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise DataError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]] | None]:
    """Each line with its row; None for a last line that was cut short."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                yield None
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("source"), str) or "error" not in row:
                raise DataError(f"{path}:{number}: not a row of transcripts; is it another kind of file?")
            yield line, row


class _Parquet:
    """A folder of Parquet parts, each written atomically."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self.path, self.held = path, set[str]()
        self._schema = _schema(pyarrow)
        self._waiting: list[dict[str, Any]] = []
        self._segments, self._since = 0, 0.0
        try:
            path.mkdir(parents=True, exist_ok=True)
            parts = sorted(path.glob("[!.]*"))
        except FileExistsError:
            raise DataError(f"{path}: is a file; a data set is a folder of parts") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be made: {error.strerror or error}") from error
        self._next = 0
        for part in parts:
            number = re.fullmatch(r"part-(\d+)\.parquet", part.name)
            if number is None:
                raise DataError(f"{part}: not a Parquet part with transcripts; is it another kind of folder?")
            self._take_up(part)
            self._next = max(self._next, int(number[1]) + 1)

    def _take_up(self, part: Path) -> None:
        """Collect the sources of an existing part; rewrite it without rows that have an error."""
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(part) as file:
                states = file.read(columns=["source", "error"]).to_pylist()
                failed = [state for state in states if state["error"] is not None]
                if len(failed) == len(states):
                    part.unlink()
                elif failed:
                    table = file.read()
                    _write_part(part, table.filter(table["error"].is_null()))
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise DataError(f"{part}: not a Parquet part with transcripts: {' '.join(str(error).split())}") from error
        self.held.update(state["source"] for state in states if state["error"] is None)

    def append(self, row: dict[str, Any]) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(row | {key: _valid(row[key]) for key in ("source", "error") if row[key] is not None})
        self._segments += 1 + len(row["segments"] or ())
        if self._segments >= _PART_SEGMENTS or time.monotonic() - self._since >= _PART_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the rows that are waiting; more may follow."""
        import pyarrow

        if self._waiting:
            table = pyarrow.Table.from_pylist(self._waiting, self._schema)
            _write_part(self.path / f"part-{self._next:05d}.parquet", table)
            self._next += 1
            self._waiting, self._segments = [], 0


def _write_part(part: Path, table: pyarrow.Table) -> None:
    import pyarrow
    from pyarrow import parquet

    content = pyarrow.BufferOutputStream()
    parquet.write_table(table, content, compression="zstd")
    write_atomically(part, content.getvalue().to_pybytes())


def _schema(arrow: Any) -> pyarrow.Schema:
    number, text = arrow.float64(), arrow.string()
    words = arrow.list_(arrow.struct([("text", text), ("start", number), ("end", number), ("confidence", number)]))
    alternatives = arrow.list_(arrow.struct([("text", text), ("score", number)]))
    segment = [("start", number), ("end", number), ("text", text), ("score", number)]
    spoken = [("spoken", text), ("spoken_words", words)]
    segments = arrow.list_(arrow.struct([*segment, ("words", words), ("alternatives", alternatives), *spoken]))
    names = [("source", text), ("duration_seconds", number), ("text", text), ("spoken", text), ("segments", segments)]
    return arrow.schema([*names, ("error", text)])


def _valid(text: str) -> str:
    """The text, with escapes in place of lone surrogates, which stand for bytes that are not UTF-8."""
    return text.encode("utf-8", errors="backslashreplace").decode()
