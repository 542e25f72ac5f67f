"""Conversion of a transcript to the plain values in json and rows, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from asr.errors import DataError
from asr.output.timed import Alternative, Segment, TimedText, Word

__all__ = ["read", "to_dict"]


def to_dict(transcript: TimedText) -> dict[str, Any]:
    """The transcript as values for `json.dumps`; times in seconds, to the millisecond.

    For text in written form, `spoken` and, in segments, `spoken_words` hold the text as recognised.
    """
    written = any(segment.spoken_text is not None for segment in transcript.segments)
    return {
        "source": transcript.source,
        "duration_seconds": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        **({"spoken": transcript.spoken} if written else {}),
        "segments": [_segment_fields(segment) for segment in transcript.segments],
    }


def read(root: object) -> tuple[str, float, tuple[Segment, ...]]:
    """Source, duration and segments from the output of `to_dict`.

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
    spoken: dict[str, object] = {}
    if segment.spoken_text is not None:
        spoken = {"spoken": segment.spoken_text, "spoken_words": _word_fields(segment.spoken_words)}
    return {
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
        "score": segment.score,
        "words": _word_fields(segment.words),
        "alternatives": [{"text": other.text, "score": other.score} for other in segment.alternatives],
        **spoken,
    }


def _word_fields(words: Sequence[Word]) -> list[dict[str, object]]:
    return [
        {
            "text": word.text,
            "start": round(word.start_seconds, 3),
            "end": round(word.end_seconds, 3),
            "confidence": word.confidence,
        }
        for word in words
    ]


def _read_segment(item: object, where: str) -> Segment:
    # Files of earlier versions have neither key; rows have null if the text is as recognised.
    written = isinstance(item, dict) and item.get("spoken") is not None
    alternatives = enumerate(_field(item, "alternatives", list, where))
    return Segment(
        text=_field(item, "text", str, where),
        start_seconds=_number(item, "start", where),
        end_seconds=_number(item, "end", where),
        score=_number(item, "score", where),
        words=_read_words(item, "words", where),
        alternatives=tuple(_read_alternative(other, f"{where}.alternatives[{index}]") for index, other in alternatives),
        spoken_text=_field(item, "spoken", str, where) if written else None,
        spoken_words=_read_words(item, "spoken_words", where) if written else (),
    )


def _read_words(item: object, key: str, where: str) -> tuple[Word, ...]:
    words = enumerate(_field(item, key, list, where))
    return tuple(_read_word(word, f"{where}.{key}[{index}]") for index, word in words)


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
