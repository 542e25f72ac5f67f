"""Transcripts in the response formats of OpenAI's API."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse, PlainTextResponse

from asr.output.formats import render
from asr.text.tokenizer import Tokenizer
from asr.transcript import Segment, Transcript, Word

__all__ = ["LANGUAGES", "MEDIA_TYPES", "Format", "answer", "timed"]

LANGUAGES = {"en": "english"}
MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]


def answer(
    transcript: Transcript, kind: Format, granularities: Sequence[str], language: str, tokenizer: Tokenizer
) -> Response:
    """A transcript in the format `kind`.

    Args:
        transcript: of the whole file.
        kind: the response format.
        granularities: details of verbose_json, "word" and "segment"; none means segments.
        language: of the model, as ISO 639-1.
        tokenizer: of the model.
    """
    usage = {"type": "duration", "seconds": round(transcript.duration_seconds, 3)}
    if kind == "json":
        return JSONResponse({"text": transcript.text, "usage": usage})
    if kind == "verbose_json":
        details = _details(transcript, granularities, tokenizer)
        head = {
            "task": "transcribe",
            "language": LANGUAGES.get(language, language),
            "duration": usage["seconds"],
            "text": transcript.text,
        }
        return JSONResponse({**head, **details, "usage": usage})
    if kind == "text":
        return PlainTextResponse(transcript.text + "\n")
    return Response(render(transcript, kind), media_type=MEDIA_TYPES[kind])


def _details(transcript: Transcript, granularities: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if "word" in granularities:
        details["words"] = _words(transcript.words)
    if "segment" in granularities or not granularities:
        details["segments"] = [_segment(i, segment, tokenizer) for i, segment in enumerate(transcript.segments)]
    return details


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"word": w.text, "start": round(w.start_seconds, 3), "end": round(w.end_seconds, 3)} for w in words]


def timed(index: int, segment: Segment) -> dict[str, Any]:
    """A segment of an event: its times, and its words with their confidence."""
    times = {"start": round(segment.start_seconds, 3), "end": round(segment.end_seconds, 3)}
    sure = [{"confidence": round(word.confidence, 4)} for word in segment.words]
    words = [word | extra for word, extra in zip(_words(segment.words), sure, strict=True)]
    return {"id": str(index), **times, "text": segment.text, "words": words}


def _segment(index: int, segment: Segment, tokenizer: Tokenizer) -> dict[str, Any]:
    """A segment as Whisper describes it; no_speech_prob is 0, since the detector removes silence before decoding."""
    text = segment.text.encode()
    log_probs = [math.log(max(word.confidence, 1e-10)) for word in segment.words]
    return {
        "id": index,
        "seek": round(segment.start_seconds * 100),  # in frames of 10 ms
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
        "tokens": tokenizer.encode(segment.spoken),
        "temperature": 0.0,
        "avg_logprob": round(sum(log_probs) / max(1, len(log_probs)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }
