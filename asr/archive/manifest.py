"""Manifests: lists of utterances with their audio files and, if known, their texts.

Spellstream writes JSON lines: `{"id", "corpus", "speaker", "audio", "duration", "text"}`, one object a line, where
`duration` is in seconds and `text` is null if there is no transcript. It also reads the manifests of other tools, in
any form that `asr.archive.tables` supports:

- Only the audio is required. Its path is relative to the manifest's folder; `~` is expanded, `file://` understood.
- A row without an id takes its audio path, as written, as id; a repeated path gets `#2`, `#3` and so on.
- A row without a corpus gets the manifest's stem. A missing duration is None in `scan`, and measured in `read`.
- `KEYS` lists the names that other tools give to fields, such as NeMo's `audio_filepath`. Further keys are ignored.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from asr.archive.tables import Fields, rows
from asr.errors import DataError
from asr.files import write_atomically

__all__ = ["KEYS", "Utterance", "audio_path", "measured", "read", "scan", "write"]

KEYS = {
    "id": ("id", "utt_id", "utterance_id"),
    "audio": ("audio", "audio_filepath", "audio_file", "audio_path", "file_name", "wav_filename", "wav", "path"),
    "duration": ("duration", "duration_seconds"),
    "text": ("text", "transcript", "transcription", "sentence", "wrd"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
    "corpus": ("corpus",),
}
"""The names of each field, in order of preference: ours, then those of NeMo, Hugging Face, DeepSpeech, SpeechBrain and
Common Voice."""


@dataclass(frozen=True)
class Utterance:
    """One recording and, if known, its text; `audio` is absolute once read."""

    id: str
    audio: Path
    duration_seconds: float | None
    text: str | None
    corpus: str
    speaker: str | None


def read(path: Path) -> list[Utterance]:
    """The utterances of a manifest in order, with durations; a single faulty row is an error.

    Audio files are opened only to measure durations that the manifest lacks.

    Raises:
        DataError: the manifest cannot be read or holds no utterance, a row cannot be understood, or an id is repeated.
            The message names the file and the line.
        AudioError: a file whose duration is needed cannot be read.
    """
    utterances: list[Utterance] = []
    place_of: dict[str, str] = {}
    for place, utterance in scan(path):
        if isinstance(utterance, DataError):
            raise utterance
        first = place_of.setdefault(utterance.id, place)
        if first != place:
            raise DataError(f"{place}: id {utterance.id!r} was used before, at {first}")
        utterances.append(measured(utterance))
    return utterances


def scan(path: Path) -> Iterator[tuple[str, Utterance | DataError]]:
    """The location of each row (see `asr.archive.tables.rows`) with its utterance or its error.

    Ids in the manifest may repeat. Audio files are not opened.

    Raises:
        DataError: the manifest cannot be read or holds no row.
    """
    used: set[str] = set()
    for place, fields in rows(path, KEYS["audio"]):
        if isinstance(fields, DataError):
            yield place, fields
            continue
        try:
            utterance = _utterance(fields, path, place, used)
        except DataError as error:
            yield place, error
            continue
        used.add(utterance.id)
        yield place, utterance


def measured(utterance: Utterance) -> Utterance:
    """The utterance with a duration: from the manifest, or else from the audio's header or by decoding it.

    Raises:
        AudioError: the audio cannot be read.
    """
    from asr.audio import SAMPLE_RATE, blocks
    from asr.audio.decode import duration_seconds

    seconds = utterance.duration_seconds
    if seconds is None:
        seconds = duration_seconds(utterance.audio)
    if seconds is None:
        seconds = sum(len(block) for block in blocks(utterance.audio)) / SAMPLE_RATE
    return replace(utterance, duration_seconds=seconds)


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read` accepts, atomically, with audio paths relative to its folder.

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
    except ValueError:  # on another drive, which no relative path reaches
        return audio.absolute().as_posix()


def _utterance(fields: Fields, path: Path, place: str, used: set[str]) -> Utterance:
    """The utterance of one row; `used` are the ids of the rows before it."""
    if _field(fields, "audio") is None:
        raise DataError(f"{place}: no audio; expected a field named audio or audio_filepath")
    if fields.get("offset") not in (None, 0, "0", "0.0"):
        raise DataError(f"{place}: offset is {fields['offset']!r}; a part of a file cannot be read: cut the file first")
    written = _string(fields, "audio", place)
    name = _string(fields, "id", place) if _field(fields, "id") is not None else _unused(written, used)
    return Utterance(
        id=name,
        audio=audio_path(written, path.absolute() if path.is_dir() else path.absolute().parent, fields, place),
        duration_seconds=_duration(_field(fields, "duration"), place),
        text=_optional_string(fields, "text", place),
        corpus=_optional_string(fields, "corpus", place) or path.absolute().stem,
        speaker=_optional_string(fields, "speaker", place),
    )


def _field(fields: Fields, name: str) -> object:
    """The value under the first of the field's names that has one."""
    return next((fields[key] for key in KEYS[name] if fields.get(key) is not None), None)


def _unused(name: str, used: set[str]) -> str:
    """The name, or else the name with the lowest number that makes it unique."""
    number, unused = 1, name
    while unused in used:
        number += 1
        unused = f"{name}#{number}"
    return unused


def audio_path(written: str, folder: Path, fields: Fields, place: str) -> Path:
    """The absolute path of a row's audio, lexically: resolving links would give a linked clip the name of its target.

    Args:
        written: a path relative to `folder`, or a `file://` address.
        folder: of the manifest.
        fields: of the row; those of Common Voice name the file in `clips/`.
        place: of the row, for messages.

    Raises:
        DataError: the address is broken.
    """
    if written.startswith("file://"):
        try:
            written = urllib.parse.unquote(urllib.parse.urlsplit(written).path)
        except ValueError as error:
            raise DataError(f"{place}: audio is {written!r}: {error}") from None
    elif "sentence" in fields and written == fields.get("path") == Path(written).name:  # Common Voice
        written = str(Path("clips", written if Path(written).suffix else f"{written}.mp3"))
    return Path(os.path.normpath(folder / os.path.expanduser(written)))  # noqa: PTH111 - pathlib's raises


def _string(fields: Fields, name: str, place: str) -> str:
    value = _field(fields, name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{place}: {name} is {value!r}; expected a string that is not empty")
    return value


def _optional_string(fields: Fields, name: str, place: str) -> str | None:
    value = _field(fields, name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: {name} is {value!r}; expected a string or null")
    return value


def _duration(value: object, place: str) -> float | None:
    if value is None:
        return None
    try:
        # bool is an int to isinstance, but no duration; an integer may be too large for a float.
        seconds = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 < seconds <= sys.float_info.max:
        raise DataError(f"{place}: duration is {value!r}; expected a finite number of seconds above 0")
    return seconds
