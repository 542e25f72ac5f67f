"""`Transcript` → subtitles, SubRip and WebVTT: cues that can be read, follow the speech and never overlap.

Inside this module all times are whole milliseconds, so that rounding happens once and cues never overlap by an ulp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr.errors import DataError
from asr.transcript import Segment, Transcript

__all__ = ["milliseconds", "srt", "vtt"]

# What subtitle guidelines agree on: two lines of 42 characters, on screen for one to seven seconds.
MAX_LINE_CHARACTERS = 42
MAX_CUE_MS = 7000
MIN_CUE_MS = 1000
PAUSE_MS = 300


def milliseconds(seconds: float, transcript: Transcript) -> int:
    """A time in whole milliseconds; a DataError names the transcript's source where it is not a finite number."""
    if not math.isfinite(seconds):
        raise DataError(f"{transcript.source}: a time is {seconds} s; expected a finite number")
    return max(0, round(seconds * 1000))


@dataclass(frozen=True)
class _Timed:
    """Text with its time: a word (or the part of one that fits on a line), or a whole cue."""

    text: str
    start_ms: int
    end_ms: int


def srt(transcript: Transcript) -> str:
    """The transcript as SubRip."""
    # SubRip has no way to escape its arrow, and a line that holds one is taken for a cue's times.
    cues = [
        f"{number}\n{_stamp(cue.start_ms, ',')} --> {_stamp(cue.end_ms, ',')}\n{cue.text.replace('-->', '→')}\n"
        for number, cue in enumerate(_cues(transcript), start=1)
    ]
    return "\n".join(cues)


def vtt(transcript: Transcript) -> str:
    """The transcript as WebVTT."""
    blocks = ["WEBVTT\n"]
    for cue in _cues(transcript):
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_stamp(cue.start_ms, '.')} --> {_stamp(cue.end_ms, '.')}\n{text}\n")
    return "\n".join(blocks)


def _stamp(ms: int, point: str) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _cues(transcript: Transcript) -> list[_Timed]:
    """The transcript in cues that never overlap, each held for a second where the next one leaves the time."""
    raw = [cue for segment in transcript.segments for cue in _split(_timed_words(segment, transcript))]
    ends = [cue.start_ms for cue in raw[1:]] + [milliseconds(transcript.duration_seconds, transcript)]
    cues: list[_Timed] = []
    free_ms = 0
    for cue, latest_end_ms in zip(raw, ends, strict=False):
        start_ms = max(cue.start_ms, free_ms)
        held_ms = min(start_ms + MIN_CUE_MS, latest_end_ms)
        # Players drop a cue that lasts no time at all.
        free_ms = max(cue.end_ms, held_ms, start_ms + 1)
        cues.append(_Timed(cue.text, start_ms, free_ms))
    return cues


def _timed_words(segment: Segment, transcript: Transcript) -> list[_Timed]:
    """The words of a segment's text, timed by its `words` where they match it, else by their share of characters."""
    words = segment.text.split()
    start_ms = milliseconds(segment.start_seconds, transcript)
    end_ms = milliseconds(segment.end_seconds, transcript)
    if len(segment.words) == len(words):
        spans = [
            (milliseconds(word.start_seconds, transcript), milliseconds(word.end_seconds, transcript))
            for word in segment.words
        ]
    else:
        spans = _share(start_ms, end_ms, [len(word) + 1 for word in words])
    timed: list[_Timed] = []
    for word, span in zip(words, spans, strict=True):
        parts = [word[at : at + MAX_LINE_CHARACTERS] for at in range(0, len(word), MAX_LINE_CHARACTERS)]
        part_spans = _share(*span, [len(part) for part in parts])
        timed += [_Timed(part, *part_span) for part, part_span in zip(parts, part_spans, strict=True)]
    return timed


def _share(start_ms: int, end_ms: int, weights: Sequence[int]) -> list[tuple[int, int]]:
    total, done = sum(weights), 0
    edges = [start_ms]
    for weight in weights:
        done += weight
        edges.append(start_ms + (end_ms - start_ms) * done // total)
    return list(pairwise(edges))


def _split(words: list[_Timed]) -> list[_Timed]:
    """Halve until each part is a readable cue: filling cues from the left would leave single words over."""
    if not words:
        return []
    start_ms, end_ms = words[0].start_ms, words[-1].end_ms
    text = _wrap([word.text for word in words])
    if text is not None and (end_ms - start_ms <= MAX_CUE_MS or len(words) == 1):
        return [_Timed(text, start_ms, min(end_ms, start_ms + MAX_CUE_MS))]
    middle = _best_break(words)
    return _split(words[:middle]) + _split(words[middle:])


def _wrap(words: list[str]) -> str | None:
    """The words on one line, or on two as even as can be; None when they need more."""
    line = " ".join(words)
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    if len(line) > 2 * MAX_LINE_CHARACTERS + 1:
        return None
    pairs = [(" ".join(words[:at]), " ".join(words[at:])) for at in range(1, len(words))]
    upper, lower = min(pairs, key=lambda pair: max(map(len, pair)))
    return f"{upper}\n{lower}" if max(len(upper), len(lower)) <= MAX_LINE_CHARACTERS else None


def _best_break(words: list[_Timed]) -> int:
    """Where to cut: near the middle of the characters, better still at a pause or after punctuation."""
    total = sum(len(word.text) + 1 for word in words)
    costs: list[float] = []
    done = 0
    for word, following in pairwise(words):
        done += len(word.text) + 1
        natural = word.text[-1] in ".,;:?!" or following.start_ms - word.end_ms >= PAUSE_MS
        costs.append(abs(done / total - 0.5) - (0.2 if natural else 0.0))
    return costs.index(min(costs)) + 1
