"""A transcript as plain values, as json and rows hold it, and back."""

from __future__ import annotations

import math
from typing import Any

from asr.errors import DataError
from asr.output.timed import Alternative, Segment, TimedText, Word

__all__ = ["read", "to_dict"]


def to_dict(transcript: TimedText) -> dict[str, Any]:
    """The transcript as values that `json.dumps` takes; times in seconds, to the millisecond."""
    return {
        "source": transcript.source,
        "duration_seconds": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        "segments": [_segment_fields(segment) for segment in transcript.segments],
    }


def read(root: object) -> tuple[str, float, tuple[Segment, ...]]:
    """Source, duration and segments from what `to_dict` gives.

    Raises:
        DataError: a field is missing or of the wrong type; the message names it.
    """
    segments = enumerate(_field(root, "segments", list, "transcript"))
    return (
        _field(root, "source", str, "transcript"),
        _number(root, "duration_seconds", "transcript"),
        tuple(_read_segment(item, f"segments[{index}]") for index, item in segments),
    )


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
