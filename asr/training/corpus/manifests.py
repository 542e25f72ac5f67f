"""lhotse manifests of a prepared folder: written with lhotse, read as the fields that training needs."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.audio import SAMPLE_RATE
from asr.errors import DataError

__all__ = ["CUTS", "Entry", "Kept", "read_entries", "write_manifests"]

CUTS = "cuts.jsonl.gz"
_RECORDINGS, _SUPERVISIONS = "recordings.jsonl.gz", "supervisions.jsonl.gz"


@dataclass(frozen=True)
class Kept:
    """A row of a prepared folder: an utterance and the position of its samples."""

    id: str
    text: str  # normalised
    speaker: str | None
    corpus: str
    source: str  # original file
    audio: str  # file to read: relative to the prepared folder, or absolute
    sample_rate: int  # of that file
    frames: int  # of that file
    start: int  # in that file, in its own samples
    samples: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A training utterance. `weight`: number of repetitions per pass over the data."""

    id: str
    text: str
    speaker: str | None
    corpus: str
    audio: Path
    start_seconds: float
    seconds: float
    at_16_khz: bool  # WAV or FLAC at 16 kHz: random access
    weight: float = 1.0


def write_manifests(folder: Path, rows: Iterable[Kept]) -> None:
    """Write the recordings, supervisions and cuts of `rows`; rows of one file are adjacent."""
    from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.audio import AudioSource

    with (
        RecordingSet.open_writer(folder / _RECORDINGS, overwrite=True) as recordings,
        SupervisionSet.open_writer(folder / _SUPERVISIONS, overwrite=True) as supervisions,
        CutSet.open_writer(folder / CUTS, overwrite=True) as cuts,
    ):
        recording = None
        for row in rows:
            if recording is None or recording.id != row.audio:
                source = AudioSource("file", [0], row.audio)
                seconds = row.frames / row.sample_rate
                recording = Recording(row.audio, [source], row.sample_rate, row.frames, seconds)
                recordings.write(recording)
            start, duration = row.start / row.sample_rate, row.samples / row.sample_rate
            custom = {"corpus": row.corpus, "source": row.source}
            about: dict[str, Any] = {"text": row.text, "speaker": row.speaker, "custom": custom}
            supervisions.write(SupervisionSegment(row.id, recording.id, start, duration, **about))
            inner = SupervisionSegment(row.id, recording.id, 0, duration, **about)
            cuts.write(MonoCut(row.id, start, duration, 0, [inner], recording=recording))


def read_entries(folder: Path, weight: float = 1.0) -> list[Entry]:
    """Read the utterances of a prepared folder.

    Raises:
        DataError: if it is not a prepared folder, or damaged.
    """
    path = folder / CUTS
    entries: list[Entry] = []
    paths: dict[str, Path] = {}
    try:
        with gzip.open(path, "rb") as file:
            entries.extend(_entry(json.loads(line), folder, weight, paths) for line in file)
    except OSError as error:
        reason = f"{CUTS}: {error.strerror or error}"
        raise DataError(f"{folder}: not a prepared corpus (spellstream prepare makes one): {reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{len(entries) + 1}: damaged: {type(error).__name__}: {error}") from None
    return entries


def _entry(cut: dict[str, Any], folder: Path, weight: float, paths: dict[str, Path]) -> Entry:
    """`paths` shares one Path object between the utterances of a file, since every worker process holds all entries."""
    recording, supervision = cut["recording"], cut["supervisions"][0]
    name = recording["sources"][0]["source"]
    audio = paths.get(name) or paths.setdefault(name, folder / name)
    return Entry(
        id=cut["id"],
        text=supervision["text"],
        speaker=supervision.get("speaker"),
        corpus=sys.intern(supervision["custom"]["corpus"]),
        audio=audio,
        start_seconds=float(cut["start"]),
        seconds=float(cut["duration"]),
        at_16_khz=recording["sampling_rate"] == SAMPLE_RATE and audio.suffix.lower() in (".wav", ".flac"),
        weight=weight,
    )
