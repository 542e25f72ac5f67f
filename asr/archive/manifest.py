"""Manifests: one utterance a line, as JSON, beside the audio.

`{"id", "corpus", "speaker", "audio", "duration", "text"}`, where `audio` is relative to the manifest's own folder,
`duration` is in seconds, and `text` is null where nobody wrote down what was said. `corpus` and `speaker` may be left
out or null. Further keys are ignored.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asr.errors import DataError
from asr.files import write_atomically

__all__ = ["Utterance", "read", "scan", "write"]


@dataclass(frozen=True)
class Utterance:
    """One recording and, where it is known, what was said; `audio` is absolute once read."""

    id: str
    audio: Path
    duration_seconds: float
    text: str | None
    corpus: str
    speaker: str | None


def read(path: Path) -> list[Utterance]:
    """The utterances of a manifest, in its order; blank lines are skipped. Audio files are not looked at.

    An utterance without a corpus gets the manifest's stem as its corpus.

    Raises:
        DataError: the file cannot be read or holds no utterance, or a line is not a JSON object, lacks a key, has a
            value of the wrong type or repeats an id. The message names the file and the line.
    """
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    for number, utterance in scan(path):
        if isinstance(utterance, DataError):
            raise utterance
        first = line_of.setdefault(utterance.id, number)
        if first != number:
            raise DataError(f"{path}:{number}: id {utterance.id!r} was used before, on line {first}")
        utterances.append(utterance)
    return utterances


def scan(path: Path) -> Iterator[tuple[int, Utterance | DataError]]:
    """Each line's number with its utterance, or with what is wrong with it; ids may repeat.

    Raises:
        DataError: the file cannot be read or holds no line.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the manifest: {error.strerror or error}") from error
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise DataError(f"{path}: the manifest is empty; expected at least one utterance")
    for number, line in filled:
        try:
            yield number, _parse(line, path, f"{path}:{number}")
        except DataError as error:
            yield number, error


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read` accepts, whole or not at all, with audio relative to its folder.

    Raises:
        DataError: there is no utterance, two share an id, or the file cannot be written.
    """
    lines: dict[str, str] = {}
    for utterance in utterances:
        if utterance.id in lines:
            raise DataError(f"{path}: id {utterance.id!r} occurs twice")
        lines[utterance.id] = _line(utterance, path)
    if not lines:
        raise DataError(f"{path}: no utterance to write; expected at least one")
    write_atomically(path, "".join(lines.values()))


def _line(utterance: Utterance, path: Path) -> str:
    fields = {
        "id": utterance.id,
        "corpus": utterance.corpus,
        "speaker": utterance.speaker,
        "audio": _relative(utterance.audio, path.parent),
        "duration": utterance.duration_seconds,
        "text": utterance.text,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _relative(audio: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(audio, folder)).as_posix()
    except ValueError:  # on another drive, where no relative path leads
        return audio.absolute().as_posix()


def _parse(line: bytes, path: Path, where: str) -> Utterance:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    missing = [key for key in ("id", "audio", "duration", "text") if key not in record]
    if missing:
        raise DataError(f"{where}: missing {', '.join(missing)}")
    return Utterance(
        id=_name(record, "id", where),
        # Made absolute by its letters alone: following links would give a linked clip the name of its target.
        audio=Path(os.path.normpath(path.absolute().parent / _name(record, "audio", where))),
        duration_seconds=_duration(record["duration"], where),
        text=_optional_text(record, "text", where),
        corpus=_optional_text(record, "corpus", where) or path.stem,
        speaker=_optional_text(record, "speaker", where),
    )


def _name(record: dict[str, object], key: str, where: str) -> str:
    value = record[key]
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {key} is {value!r}; expected a string that is not empty")
    return value


def _optional_text(record: dict[str, object], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {key} is {value!r}; expected a string or null")
    return value


def _duration(value: object, where: str) -> float:
    # bool is an int to isinstance, but no duration. The bound also keeps out integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise DataError(f"{where}: duration is {value!r}; expected a finite number of seconds above 0")
    return float(value)
