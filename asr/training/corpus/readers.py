"""Readers of corpora: manifests, LibriSpeech and Kaldi folders, Common Voice tables, lhotse cuts.

Nothing is decoded or downloaded, and no command is run. An unusable utterance becomes a `Problem`; a source that cannot
be read at all raises a DataError.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from asr.archive import manifest, tables
from asr.archive.folders import SUFFIXES, audio_files
from asr.errors import DataError

__all__ = ["Candidate", "Kind", "Problem", "read"]


class Kind(str, Enum):
    """Kind of a corpus; `auto` detects it from the files present."""

    auto = "auto"
    manifest = "manifest"
    librispeech = "librispeech"
    kaldi = "kaldi"
    common_voice = "common-voice"
    cuts = "cuts"


@dataclass(frozen=True)
class Candidate:
    """An utterance as its corpus describes it, not yet decoded or checked."""

    id: str
    audio: Path
    text: str | None  # not normalised; None if there is no transcript
    speaker: str | None
    corpus: str
    start_seconds: float | None = None  # in the audio file; None if the file holds only this utterance
    seconds: float | None = None  # as stated by the corpus, or None


@dataclass(frozen=True)
class Problem:
    """The reason why an utterance was left out. `id` is the utterance's, or the place of a bad line: `a/text:12`."""

    id: str
    kind: str
    reason: str


def read(source: Path, kind: Kind = Kind.auto) -> Iterator[Candidate | Problem]:
    """Utterances of a corpus in their original order.

    Args:
        source: a manifest (see `asr.archive.manifest`: `.jsonl`, `.json`, `.csv`, `.tsv`, or a folder of audio files
            with a NAME.txt beside each), a folder like LibriSpeech (`speaker/chapter/*.trans.txt` beside the audio) or
            Kaldi (`wav.scp`, `text`, maybe `segments` and `utt2spk`), a table of Common Voice (`.tsv`, or the folder of
            `validated.tsv` and `clips`), or lhotse's cuts (`cuts.jsonl`, `.gz` or not, or their folder).
        kind: of the corpus.

    Raises:
        DataError: if its kind is unknown, or it cannot be read or is empty.
    """
    kind = _detect(source) if kind is Kind.auto else kind
    readers = {
        Kind.manifest: _manifest,
        Kind.librispeech: _librispeech,
        Kind.kaldi: _kaldi,
        Kind.common_voice: _common_voice,
        Kind.cuts: _cuts,
    }
    empty = True
    for found in readers[kind](source):
        empty = False
        yield found
    if empty:
        raise DataError(f"{source}: contains no utterance (read as {kind.value})")


def _detect(source: Path) -> Kind:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_file():
        if source.name.endswith((".jsonl.gz", "cuts.jsonl")):
            return Kind.cuts
        if source.suffix == ".tsv" and {"path", "sentence"} <= {*next(_lines(source), (1, ""))[1].split("\t")}:
            return Kind.common_voice
        if source.suffix.lower() in tables.SUFFIXES:
            return Kind.manifest
    for name, kind in (("cuts.jsonl.gz", Kind.cuts), ("wav.scp", Kind.kaldi), ("validated.tsv", Kind.common_voice)):
        if (source / name).is_file():
            return kind
    if source.is_dir() and next(source.rglob("*.trans.txt"), None):
        return Kind.librispeech
    if source.is_dir() and any(path.with_suffix(".txt").is_file() for path in _audio(source)):
        return Kind.manifest
    raise DataError(
        f"{source}: unknown kind of corpus: expected a manifest (.jsonl, .json, .csv, .tsv), or a folder with "
        "*.trans.txt, wav.scp, validated.tsv, cuts.jsonl.gz, or audio files with a .txt beside each"
    )


def _audio(folder: Path) -> Iterator[Path]:
    return (Path(found) for found in audio_files(str(folder)) if isinstance(found, str))


def _manifest(path: Path) -> Iterator[Candidate | Problem]:
    for place, found in manifest.scan(path):
        if isinstance(found, DataError):
            yield Problem(place, "bad line", str(found).removeprefix(f"{place}: "))
        else:
            u = found
            yield Candidate(u.id, u.audio, u.text, u.speaker, u.corpus, seconds=u.duration_seconds)


def _librispeech(folder: Path) -> Iterator[Candidate | Problem]:
    folder = folder.absolute()
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        chapter = transcripts.parent
        above = chapter.relative_to(folder).parts[:-2]  # folders above the speaker: the part of LibriSpeech
        corpus = above[0] if above else folder.resolve().name
        audio = {path.stem: path for path in sorted(chapter.iterdir()) if path.suffix.lower() in SUFFIXES}
        for _, name, text in _table(transcripts):
            path = audio.pop(name, chapter / f"{name}.flac")
            yield Candidate(name, path, text, chapter.parent.name, corpus)
        for name, path in audio.items():
            yield Problem(name, "no text", f"{path} has no line in {transcripts.name}")


def _kaldi(folder: Path) -> Iterator[Candidate | Problem]:
    recordings = {name: value for _, name, value in _table(folder / "wav.scp")}
    has_segments, has_speakers = ((folder / name).is_file() for name in ("segments", "utt2spk"))
    segments = {name: value for _, name, value in _table(folder / "segments")} if has_segments else None
    speakers = {name: value for _, name, value in _table(folder / "utt2spk")} if has_speakers else {}
    transcribed = set()
    for _, name, text in _table(folder / "text"):
        transcribed.add(name)
        recording, *times = (segments.get(name, "") if segments is not None else name).split() or [""]
        if recording not in recordings:
            table = "wav.scp" if recording else "segments"
            yield Problem(name, "missing audio", f"{folder / 'text'} names it, but {table} does not")
            continue
        command = recordings[recording]
        if command.endswith("|") or command.startswith("|"):
            reason = (
                f"{folder / 'wav.scp'} gives a command for {recording}, and commands are not run: write files first"
            )
            yield Problem(name, "command", reason)
            continue
        path = _beside(command, folder)
        speaker = speakers.get(name)
        if segments is None:
            yield Candidate(name, path, text, speaker, folder.resolve().name)
        else:
            yield _segment(Candidate(name, path, text, speaker, folder.resolve().name), times, folder / "segments")
    for name in segments if segments is not None else recordings:
        if name not in transcribed:
            yield Problem(name, "no text", f"{folder / 'text'} has no line for it")


def _segment(whole: Candidate, times: list[str], path: Path) -> Candidate | Problem:
    """A part of a recording, from a line of Kaldi's `segments`; an end of -1 is the end of the recording."""
    try:
        start, end = (float(time) for time in times[:2])
    except ValueError:
        return Problem(whole.id, "bad line", f"{path}: times {' '.join(times)!r}: expected two numbers")
    if not (0 <= start < end < float("inf") or (0 <= start < float("inf") and end == -1)):
        return Problem(whole.id, "bad line", f"{path}: goes from {start} to {end} s")
    seconds = None if end == -1 else end - start
    return Candidate(whole.id, whole.audio, whole.text, whole.speaker, whole.corpus, start, seconds)


def _common_voice(source: Path) -> Iterator[Candidate | Problem]:
    table = source / "validated.tsv" if source.is_dir() else source
    lines = _lines(table)
    columns = next(lines, (1, ""))[1].split("\t")
    missing = [name for name in ("path", "sentence") if name not in columns]
    if missing:
        raise DataError(f"{table}: not a Common Voice table: its header lacks {' and '.join(missing)}")
    for number, line in lines:
        row = dict(zip(columns, line.split("\t"), strict=False))  # quotes are literal in these tables
        clip, text = row.get("path"), row.get("sentence")
        if not clip or text is None:
            yield Problem(f"{table}:{number}", "bad line", "it has no path or no sentence")
            continue
        path = table.absolute().parent / "clips" / (clip if Path(clip).suffix else f"{clip}.mp3")
        yield Candidate(path.stem, path, text, row.get("client_id") or None, table.absolute().parent.name)


def _cuts(source: Path) -> Iterator[Candidate | Problem]:
    path = source / "cuts.jsonl.gz" if source.is_dir() else source
    for number, line in _lines(path):
        try:
            cut = json.loads(line)
            yield _cut(cut, path)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            yield Problem(f"{path}:{number}", "bad line", f"not a lhotse cut: {type(error).__name__}: {error}")


def _cut(cut: dict[str, Any], path: Path) -> Candidate | Problem:
    """A lhotse cut as a dictionary; only cuts with one supervision, one channel and one file are supported."""
    name, recording, supervisions = str(cut["id"]), cut["recording"], cut.get("supervisions") or []
    source = recording["sources"][0]
    for wrong, why in (
        (cut.get("type", "MonoCut") != "MonoCut", f"is a {cut.get('type')}"),
        (len(recording["sources"]) > 1 or len(source["channels"]) > 1, "has several channels"),
        (source["type"] != "file", f"comes from a {source['type']}"),
        (bool(recording.get("transforms")), "is transformed"),
        (len(supervisions) > 1, f"has {len(supervisions)} supervisions"),
    ):
        if wrong:
            return Problem(name, "cut", f"{path}: it {why}; only plain cuts of files with one channel can be read")
    start, seconds = float(cut["start"]), float(cut["duration"])
    if not (0 <= start < float("inf") and 0 < seconds < float("inf")):
        return Problem(name, "bad line", f"{path}: starts at {start} s and lasts {seconds} s")
    whole = start == 0 and abs(seconds - float(recording["duration"])) < 1e-3
    supervision = supervisions[0] if supervisions else {}
    text, speaker = supervision.get("text"), supervision.get("speaker")
    if not isinstance(text, (str, type(None))) or not isinstance(speaker, (str, type(None))):
        raise TypeError("its text or speaker is not a string")
    corpus = (supervision.get("custom") or {}).get("corpus") or path.absolute().parent.name
    audio = _beside(str(source["source"]), path.parent)
    return Candidate(name, audio, text, speaker, str(corpus), None if whole else start, seconds)


def _beside(name: str, folder: Path) -> Path:
    """Resolve a path from a table: absolute, relative to the table, or relative to the working directory."""
    beside = (folder / name).absolute()
    try:
        return beside if beside.exists() or not Path(name).exists() else Path(name).absolute()
    except (OSError, ValueError):  # too long, or with a zero byte: reported when it is read
        return beside


def _table(path: Path) -> Iterator[tuple[int, str, str]]:
    """Lines of a Kaldi table: number, first word, rest."""
    for number, line in _lines(path):
        name, *rest = line.split(maxsplit=1) or [line]
        yield number, name, rest[0].strip() if rest else ""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Non-blank lines with their numbers. Bytes that are not UTF-8 become U+FFFD, which no text may contain."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.decode("utf-8", errors="replace").removeprefix("\ufeff").rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
