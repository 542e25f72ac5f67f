"""Transcripts as rows: content, loss at a kill, refused files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asr.archive.batch import run
from asr.errors import AudioError, ConfigError, DataError
from asr.output.rows import Rows, open_rows
from asr.terminal import Progress
from asr.transcript import Segment, Transcript, Word, read_json
from tests.support.archive import files
from tests.support.commands import Stub, transcript_of

KINDS = ("rows.jsonl", "rows.parquet")


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param.endswith("parquet"):
        pytest.importorskip("pyarrow")
    return tmp_path / "deep" / str(request.param)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows, read by a standard library."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    from pyarrow import parquet

    parts = sorted(path.glob("part-*.parquet"))
    return [row for part in parts for row in parquet.ParquetFile(part).read().to_pylist()]


def write(rows: Rows, *sources: str) -> None:
    for source in sources:
        rows.write(source, transcript_of(source))


def test_a_row_holds_what_json_does_and_the_absolute_path(path: Path) -> None:
    rows = open_rows(path, resume=False)
    write(rows, "talks/a.wav")
    rows.close()
    (row,) = read(path)
    assert row.pop("spoken", None) is None
    assert list(row) == ["source", "duration_seconds", "text", "segments", "error"]
    assert row["source"] == str(Path("talks/a.wav").absolute())
    assert row["error"] is None
    transcript = read_json(json.dumps(row))
    assert transcript.segments == transcript_of("a.wav").segments
    assert (transcript.text, transcript.duration_seconds) == ("hello there again", 2.0)


def test_a_row_tells_why_there_is_no_transcript(path: Path) -> None:
    rows = open_rows(path, resume=False)
    rows.fail("/in/bad.wav", AudioError("/in/bad.wav", "is empty"))
    rows.close()
    (row,) = read(path)
    assert row.pop("spoken", None) is None
    assert row == {
        "source": "/in/bad.wav",
        "duration_seconds": None,
        "text": None,
        "segments": None,
        "error": "is empty",
    }


def test_a_row_of_written_text_holds_what_was_recognised(path: Path) -> None:
    words = (Word("twenty", 0.0, 0.5, 0.9), Word("five", 0.5, 1.0, 0.8))
    written = Segment("25", 0.0, 1.0, -1.0, (Word("25", 0.0, 1.0, 0.8),), (), "twenty five", words)
    rows = open_rows(path, resume=False)
    rows.write("a.wav", Transcript("a.wav", 1.0, (written,)))
    rows.close()
    (row,) = read(path)
    assert (row["text"], row["spoken"]) == ("25", "twenty five")
    assert read_json(json.dumps(row)).segments == (written,)


def test_what_has_a_transcript_is_kept_and_what_failed_is_tried_again(path: Path) -> None:
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav")
    rows.fail("/b.wav", AudioError("/b.wav", "is empty"))
    rows.close()
    for _ in range(2):  # the second time, no row has an error
        rows = open_rows(path, resume=True)
        assert [rows.holds(f"/{name}.wav") for name in "abc"] == [True, False, False]
        rows.close()
    rows = open_rows(path, resume=True)
    write(rows, "/b.wav", "/c.wav")
    rows.close()
    assert [(row["source"], row["error"]) for row in read(path)] == [(f"/{name}.wav", None) for name in "abc"]


def test_a_source_has_one_row_however_often_it_comes(path: Path) -> None:
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav", "/a.wav", "/x/../a.wav")
    rows.close()
    assert [row["source"] for row in read(path)] == ["/a.wav"]


def test_a_name_that_is_not_utf_8(path: Path) -> None:
    """In JSON lines, the escape in the name had two backslashes, which no program could turn back into the name."""
    name = os.fsdecode(b"/caf\xe9.wav")
    rows = open_rows(path, resume=False)
    write(rows, name)
    rows.close()
    (found,) = (row["source"] for row in read(path))
    assert found == ("/caf\\udce9.wav" if path.suffix == ".parquet" else name)
    rows = open_rows(path, resume=True)
    assert rows.holds(name)
    rows.close()


@pytest.mark.parametrize("written", ["/caf\\\\udce9.wav", "/caf\\udce9.wav"], ids=["before", "now"])
def test_a_name_that_is_not_utf_8_is_known_again(written: str, tmp_path: Path) -> None:
    """--resume also finds rows of earlier versions, whose escapes have two backslashes."""
    path, name = tmp_path / "rows.jsonl", os.fsdecode(b"/caf\xe9.wav")
    path.write_text(f'{{"source": "{written}", "error": null}}\n', encoding="utf-8")
    rows = open_rows(path, resume=True)
    assert rows.holds(name)
    rows.close()


def test_a_line_that_a_kill_cut_short_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav", "/b.wav")
    rows.close()
    whole = path.read_bytes()
    for cut in (1, 20):
        path.write_bytes(whole[:-cut])
        rows = open_rows(path, resume=True)
        assert [rows.holds("/a.wav"), rows.holds("/b.wav")] == [True, False]
        write(rows, "/b.wav")
        rows.close()
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_part_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav")
    file = rows._store._file  # type: ignore[union-attr]

    class Full:
        room = 10

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written, self.room = file.write(data[: self.room]), 0
            return written

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    monkeypatch.setattr(rows._store, "_file", Full())
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be written: No space left on device")):
        write(rows, "/b.wav")
    monkeypatch.undo()
    assert not rows.holds("/b.wav")
    write(rows, "/c.wav")
    rows.close()
    assert [row["source"] for row in read(path)] == ["/a.wav", "/c.wav"]


def test_a_disk_that_is_full_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems report a full disk only at close: a long run then ended with a traceback."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "rows.jsonl"
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be written: No space left on device")):
        rows.close()


def test_a_device_by_the_name_of_rows_is_left_alone(tmp_path: Path) -> None:
    """A device is neither a file nor a folder: listing its entries raised NotADirectoryError."""
    path = tmp_path / "rows.jsonl"
    path.symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="exists already"):
        open_rows(path, resume=False)


def test_parts_are_written_as_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("asr.output.rows._PART_SEGMENTS", 6)  # each of these rows counts as three segments
    path = tmp_path / "rows.parquet"
    rows = open_rows(path, resume=False)
    write(rows, *(f"/{number}.wav" for number in range(5)))
    assert [row["source"] for row in read(path)] == ["/0.wav", "/1.wav", "/2.wav", "/3.wav"]  # safe from a kill
    rows = open_rows(path, resume=True)
    write(rows, "/4.wav", "/5.wav")
    assert sorted(part.name for part in path.iterdir()) == [f"part-0000{number}.parquet" for number in range(3)]
    assert len(read(path)) == 6


def test_what_is_there_is_not_written_over(path: Path) -> None:
    rows = open_rows(path, resume=False)
    write(rows, "/a.wav")
    rows.close()
    with pytest.raises(ConfigError, match=r"exists already: --resume continues it"):
        open_rows(path, resume=False)
    with pytest.raises(ConfigError, match=r"rows\.csv: expected a name that ends in \.jsonl or \.parquet"):
        open_rows(path.with_suffix(".csv"), resume=True)


def others(folder: Path) -> Iterator[Path]:
    manifest = folder / "manifest.jsonl"
    manifest.write_text('{"id": "a", "audio": "a.wav", "duration": 1, "text": null}\n')
    yield manifest
    lines = folder / "lines.jsonl"
    lines.write_text("one\ntwo\n")
    yield lines
    parts = folder / "parts.parquet"
    parts.mkdir()
    (parts / "part-00000-c000.snappy.parquet").write_text("of another tool")
    yield parts
    broken = folder / "broken.parquet"
    broken.mkdir()
    (broken / "part-00000.parquet").write_text("PAR1")
    yield broken
    file = folder / "file.parquet"
    file.write_text("PAR1")
    yield file


def test_what_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for other in others(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(DataError, match=re.escape(str(other))):
            open_rows(other, resume=True)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_fills_rows_and_the_next_does_the_rest(path: Path, tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.wav", "bad.wav", "c.wav")
    rows = open_rows(path, resume=False)
    totals = run(Stub().transcribe_many, [f"{folder}/a.wav", f"{folder}/bad.wav"], rows, Progress())
    rows.close()
    assert (totals.done, totals.failed) == (1, 1)
    assert {row["source"]: row["error"] for row in read(path)} == {
        f"{folder}/a.wav": None,
        f"{folder}/bad.wav": "is not audio",
    }
    stub, rows = Stub(), open_rows(path, resume=True)
    totals = run(stub.transcribe_many, [str(folder)], rows, Progress(), resume=True)
    rows.close()
    assert (totals.done, totals.failed, totals.skipped) == (1, 1, 1)
    assert sorted(stub.heard) == [f"{folder}/bad.wav", f"{folder}/c.wav"]
    assert len(read(path)) == 3
