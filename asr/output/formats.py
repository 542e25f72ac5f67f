"""`Transcript` → text: plain text, JSON, SubRip, WebVTT and TSV."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from asr.errors import ConfigError, DataError
from asr.output.subtitles import milliseconds, srt, vtt
from asr.transcript import Alternative, Segment, Transcript, Word

__all__ = ["FORMATS", "parse_formats", "read_json", "render"]


def render(transcript: Transcript, format: str) -> str:  # noqa: A002 - the word that users know
    """The transcript as the content of a file in `format`, one of `FORMATS`.

    Segments without text appear in json alone. An empty transcript gives a valid file without entries.

    Raises:
        ConfigError: `format` is not one of `FORMATS`.
        DataError: a time (or, for json, a score) is not a finite number.
    """
    if format not in _RENDERERS:
        raise ConfigError(f"unknown format {format!r}; choose from {', '.join(FORMATS)}")
    return _RENDERERS[format](transcript)


def parse_formats(names: str) -> tuple[str, ...]:
    """The formats in a comma-separated list such as `txt,json`, each once; `all` stands for every format.

    Raises:
        ConfigError: the list is empty or names an unknown format.
    """
    chosen: dict[str, None] = {}  # a dict keeps the order in which the formats were named
    for name in (part.strip().lower() for part in names.split(",")):
        if name == "all":
            chosen.update(dict.fromkeys(FORMATS))
        elif name in FORMATS:
            chosen[name] = None
        else:
            raise ConfigError(f"unknown format {name!r} in {names!r}; choose from {', '.join(FORMATS)} or all")
    return tuple(chosen)


def read_json(text: str) -> Transcript:
    """The inverse of `render(transcript, "json")`, times to the millisecond.

    Raises:
        DataError: `text` is not JSON, or a field is missing or of the wrong type; the message names the field.
    """
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"transcript: not JSON: {error}") from error
    segments = _field(root, "segments", list, "transcript")
    return Transcript(
        source=_field(root, "source", str, "transcript"),
        duration_seconds=_number(root, "duration_seconds", "transcript"),
        segments=tuple(_read_segment(item, f"segments[{index}]") for index, item in enumerate(segments)),
    )


# --- the plain formats ------------------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _txt(transcript: Transcript) -> str:
    lines = (_one_line(segment.text) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def _tsv(transcript: Transcript) -> str:
    rows = ["start_ms\tend_ms\ttext\n"]
    for segment in transcript.segments:
        if line := _one_line(segment.text):
            start_ms = milliseconds(segment.start_seconds, transcript)
            end_ms = milliseconds(segment.end_seconds, transcript)
            rows.append(f"{start_ms}\t{end_ms}\t{line}\n")
    return "".join(rows)


# --- json -------------------------------------------------------------------------------------------------------------


def _json(transcript: Transcript) -> str:
    root = {
        "source": transcript.source,
        "duration_seconds": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        "segments": [_segment_fields(segment) for segment in transcript.segments],
    }
    try:
        return json.dumps(root, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    except ValueError as error:
        raise DataError(f"{transcript.source}: a time or score is not a finite number") from error


def _segment_fields(segment: Segment) -> dict[str, object]:
    words = [
        {
            "text": word.text,
            "start": round(word.start_seconds, 3),
            "end": round(word.end_seconds, 3),
            "confidence": word.confidence,
        }
        for word in segment.words
    ]
    return {
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
        "score": segment.score,
        "words": words,
        "alternatives": [{"text": other.text, "score": other.score} for other in segment.alternatives],
    }


def _read_segment(item: object, where: str) -> Segment:
    words = enumerate(_field(item, "words", list, where))
    alternatives = enumerate(_field(item, "alternatives", list, where))
    return Segment(
        text=_field(item, "text", str, where),
        start_seconds=_number(item, "start", where),
        end_seconds=_number(item, "end", where),
        score=_number(item, "score", where),
        words=tuple(_read_word(word, f"{where}.words[{index}]") for index, word in words),
        alternatives=tuple(_read_alternative(other, f"{where}.alternatives[{index}]") for index, other in alternatives),
    )


def _read_word(item: object, where: str) -> Word:
    return Word(
        text=_field(item, "text", str, where),
        start_seconds=_number(item, "start", where),
        end_seconds=_number(item, "end", where),
        confidence=_number(item, "confidence", where),
    )


def _read_alternative(item: object, where: str) -> Alternative:
    return Alternative(text=_field(item, "text", str, where), score=_number(item, "score", where))


def _field(item: object, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object, found {type(item).__name__}")
    if key not in item:
        raise DataError(f"{where}: {key!r} is missing")
    value = item[key]
    # bool is an int to isinstance, but never a time or a score.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}.{key}: wrong type {type(value).__name__}")
    return value


def _number(item: object, key: str, where: str) -> float:
    value = _field(item, key, (int, float), where)
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where}.{key}: expected a finite number, found {number}")
    return number


_RENDERERS: dict[str, Callable[[Transcript], str]] = {
    "txt": _txt,
    "json": _json,
    "srt": srt,
    "vtt": vtt,
    "tsv": _tsv,
}
FORMATS: tuple[str, ...] = tuple(_RENDERERS)
"""The names of the formats, which are also the extensions of their files."""
