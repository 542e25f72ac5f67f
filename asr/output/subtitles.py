"""`Transcript` → cues in SubRip, WebVTT and TSV that stay long enough to read, follow the speech and never overlap.

Inside this module all times are whole milliseconds, so that rounding happens once and cues cannot overlap by a rounding
error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr.config import require
from asr.errors import DataError
from asr.output.breaks import Timed, cost_of_break
from asr.output.timed import Segment, TimedText

__all__ = ["SubtitleShape", "srt", "tsv", "vtt"]

# Common subtitle guidelines: a cue stays on screen for one to seven seconds, long enough to be read.
MAX_CUE_MS = 7000
MIN_CUE_MS = 1000
CHARACTERS_PER_SECOND = 20
CLOSED_GAP_MS = 500  # a shorter gap between cues would flicker
_MOST_WORDS = 200  # per cue, whatever its lines could hold: nobody reads more in seven seconds

# Costs of a division into cues and lines, in the unit of `cost_of_break`.
_CUE_COST = 0.3  # of each cue: fewer are better
_BRIEF_CUE_COST = 0.3  # of one that is followed by the next before it can be read
_EMPTY_CUE_COST = 0.5  # times the square of the part of a cue that is empty
_CUE_BREAK_WEIGHT = 2.0  # of `cost_of_break` between cues; between lines it is 1
_UNEVEN_LINE_COST = 0.5  # times a line's deviation from the mean length, as a part of the text
_SINGLE_WORD_LINE_COST = 0.3


@dataclass(frozen=True)
class SubtitleShape:
    """Size limits of a cue; the defaults follow common subtitle guidelines.

    Args:
        max_line_width: characters per line.
        max_lines: lines per cue.
        max_words: words per cue; None for as many as the lines hold.
        highlight_words: underline each word while it is spoken (srt and vtt).

    Raises:
        ConfigError: a value is out of bounds.
    """

    max_line_width: int = 42
    max_lines: int = 2
    max_words: int | None = None
    highlight_words: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.max_line_width <= 1000, "max_line_width", self.max_line_width, "in 1..1000")
        require(1 <= self.max_lines <= 100, "max_lines", self.max_lines, "in 1..100")
        require(self.max_words is None or self.max_words >= 1, "max_words", self.max_words, "at least 1")


@dataclass(frozen=True)
class _Cue:
    """Lines of words that are on screen together."""

    lines: tuple[tuple[Timed, ...], ...]
    start_ms: int
    end_ms: int

    def text(self, escape: Callable[[str], str] = str, spoken: Timed | None = None) -> str:
        """The lines, escaped, with the word being spoken underlined."""

        def shown(word: Timed) -> str:
            return f"<u>{escape(word.text)}</u>" if word is spoken else escape(word.text)

        return "\n".join(" ".join(map(shown, line)) for line in self.lines)


def srt(transcript: TimedText, shape: SubtitleShape) -> str:
    """The transcript as SubRip."""
    shown = _shown(transcript, shape, _srt_text)
    return "\n".join(
        f"{number}\n{_stamp(start_ms, ',')} --> {_stamp(end_ms, ',')}\n{text}\n"
        for number, (start_ms, end_ms, text) in enumerate(shown, start=1)
    )


def vtt(transcript: TimedText, shape: SubtitleShape) -> str:
    """The transcript as WebVTT."""
    shown = _shown(transcript, shape, _vtt_text)
    cues = [f"{_stamp(start_ms, '.')} --> {_stamp(end_ms, '.')}\n{text}\n" for start_ms, end_ms, text in shown]
    return "\n".join(["WEBVTT\n", *cues])


def tsv(transcript: TimedText, shape: SubtitleShape) -> str:
    """The transcript as a table of cues, `start`, `end` (both in milliseconds) and `text`, as whisper writes it."""
    rows = (f"{cue.start_ms}\t{cue.end_ms}\t{' '.join(cue.text().splitlines())}\n" for cue in _cues(transcript, shape))
    return "".join(["start\tend\ttext\n", *rows])


def _srt_text(text: str) -> str:
    # SubRip has no escape for its arrow, and a line with an arrow is read as a cue's times.
    return text.replace("-->", "→")


def _vtt_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stamp(ms: int, point: str) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _shown(transcript: TimedText, shape: SubtitleShape, escape: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """Start, end and text of each screen: a cue, or with highlighting a copy of the cue for each of its words."""
    for cue in _cues(transcript, shape):
        if not shape.highlight_words:
            yield cue.start_ms, cue.end_ms, cue.text(escape)
            continue
        at_ms = cue.start_ms
        for word in (word for line in cue.lines for word in line):
            start_ms, end_ms = max(word.start_ms, at_ms), min(word.end_ms, cue.end_ms)
            if at_ms < start_ms < cue.end_ms:  # no word is underlined in the gap between two words
                yield at_ms, start_ms, cue.text(escape)
                at_ms = start_ms
            if start_ms < end_ms:
                yield start_ms, end_ms, cue.text(escape, word)
                at_ms = end_ms
        if at_ms < cue.end_ms:
            yield at_ms, cue.end_ms, cue.text(escape)


def _cues(transcript: TimedText, shape: SubtitleShape) -> list[_Cue]:
    """The transcript in cues that never overlap; each is extended until it can be read, if the next one leaves time."""
    words = (_timed_words(segment, transcript, shape) for segment in transcript.segments)
    raw = [cue for part in _joined(words) for cue in _split(part, shape)]
    ends = [cue.start_ms for cue in raw[1:]] + [_milliseconds(transcript.duration_seconds, transcript)]
    cues: list[_Cue] = []
    free_ms = 0
    for cue, latest_end_ms in zip(raw, ends, strict=False):
        start_ms = max(cue.start_ms, free_ms)
        reading_ms = 1000 * len(cue.text()) // CHARACTERS_PER_SECOND
        held_ms = min(start_ms + min(max(reading_ms, MIN_CUE_MS), MAX_CUE_MS), latest_end_ms)
        # Players drop a cue of zero length.
        free_ms = max(cue.end_ms, held_ms, start_ms + 1)
        if cue is not raw[-1] and latest_end_ms - free_ms < CLOSED_GAP_MS:
            free_ms = max(free_ms, latest_end_ms)
        cues.append(_Cue(cue.lines, start_ms, free_ms))
    return cues


def _joined(segments: Iterable[list[Timed]]) -> Iterator[list[Timed]]:
    """The words of segments; a segment too short to be read is joined to the next one."""
    waiting: list[Timed] = []
    for words in filter(None, segments):
        if waiting and not 0 <= words[0].start_ms - waiting[0].start_ms < MIN_CUE_MS:
            yield waiting
            waiting = []
        waiting = [*waiting, *words]
    if waiting:
        yield waiting


def _milliseconds(seconds: float, transcript: TimedText) -> int:
    """A time in whole milliseconds; a DataError names the transcript's source if it is not a finite number."""
    if not math.isfinite(seconds):
        raise DataError(f"{transcript.source}: a time is {seconds} s; expected a finite number")
    return max(0, round(seconds * 1000))


def _timed_words(segment: Segment, transcript: TimedText, shape: SubtitleShape) -> list[Timed]:
    """The words of a segment's text, timed by `words` if they match it, else by their share of the characters.

    A written word with spaces, such as "3:30 p.m.", is split into several words, which share its time.
    """
    words = segment.text.split()
    start_ms = _milliseconds(segment.start_seconds, transcript)
    end_ms = _milliseconds(segment.end_seconds, transcript)
    parts_of = [word.text.split() for word in segment.words]
    if sum(map(len, parts_of)) == len(words):
        spans = [
            span
            for word, parts in zip(segment.words, parts_of, strict=True)
            for span in _share(
                _milliseconds(word.start_seconds, transcript),
                _milliseconds(word.end_seconds, transcript),
                [len(part) for part in parts],
            )
        ]
    else:
        spans = _share(start_ms, end_ms, [len(word) + 1 for word in words])
    timed: list[Timed] = []
    for word, span in zip(words, spans, strict=True):
        parts = [word[at : at + shape.max_line_width] for at in range(0, len(word), shape.max_line_width)]
        part_spans = _share(*span, [len(part) for part in parts])
        timed += [Timed(part, *part_span) for part, part_span in zip(parts, part_spans, strict=True)]
    return timed


def _share(start_ms: int, end_ms: int, weights: Sequence[int]) -> list[tuple[int, int]]:
    """The time from start to end, divided in proportion to the weights."""
    total, done = sum(weights), 0
    edges = [start_ms]
    for weight in weights:
        done += weight
        edges.append(start_ms + (end_ms - start_ms) * done // total)
    return list(pairwise(edges))


def _split(words: list[Timed], shape: SubtitleShape) -> list[_Cue]:
    """The cues of the words with the lowest cost; greedy filling would leave single words over."""
    # best[n]: cost of the cues so far, if they hold the first n words, and the first word of the last cue.
    best = [(0.0, 0)]
    for end in range(1, len(words) + 1):
        break_cost = cost_of_break(words[end - 1], words[end]) if end < len(words) else 0.0
        costs = ((best[start][0] + cost, start) for start, cost in _cue_costs(words, end, shape))
        cost, start = min(costs, key=lambda found: (found[0], -found[1]))
        best.append((cost + _CUE_BREAK_WEIGHT * break_cost, start))
    edges = [len(words)]
    while edges[-1] > 0:
        edges.append(best[edges[-1]][1])
    cues = []
    for start, end in pairwise(reversed(edges)):
        lines = _wrap(words[start:end], shape)
        first_ms, last_ms = words[start].start_ms, words[end - 1].end_ms
        cues.append(_Cue(lines, first_ms, min(last_ms, first_ms + MAX_CUE_MS)))
    return cues


def _cue_costs(words: list[Timed], end: int, shape: SubtitleShape) -> Iterator[tuple[int, float]]:
    """The possible first words of a cue that ends before word `end`, each with its cost."""
    room = shape.max_lines * shape.max_line_width if shape.max_words is None else shape.max_words
    for start in range(end - 1, max(-1, end - 1 - _MOST_WORDS), -1):
        count = end - start
        too_long = words[end - 1].end_ms - words[start].start_ms > MAX_CUE_MS or count > (shape.max_words or count)
        lines = _fill(words[start:end], shape.max_line_width)
        if count > 1 and (too_long or len(lines) > shape.max_lines):
            return
        size = sum(len(word.text) + 1 for word in words[start:end]) - 1 if shape.max_words is None else count
        next_ms = words[end].start_ms if end < len(words) else words[end - 1].end_ms
        is_brief = next_ms - words[start].start_ms < MIN_CUE_MS and count < len(words)
        cost = _CUE_COST + _EMPTY_CUE_COST * (1 - size / room) ** 2
        yield start, cost + _BRIEF_CUE_COST if is_brief else cost


def _wrap(words: list[Timed], shape: SubtitleShape) -> tuple[tuple[Timed, ...], ...]:
    """The words on the fewest lines, of similar length and with the best breaks."""
    count = len(_fill(words, shape.max_line_width))
    characters = sum(len(word.text) + 1 for word in words) - 1
    # best[n]: cost and beginnings of the lines so far, if they hold the first n words.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(count):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (cost, starts) in best.items():
            width = -1
            for end in range(start + 1, len(words) + 1):
                width += len(words[end - 1].text) + 1
                if width > shape.max_line_width:
                    break
                line_cost = _UNEVEN_LINE_COST * abs(width / characters - 1 / count)
                if count > 1 and end == start + 1:
                    line_cost += _SINGLE_WORD_LINE_COST
                if end < len(words):
                    line_cost += cost_of_break(words[end - 1], words[end])
                if end not in following or cost + line_cost < following[end][0]:
                    following[end] = (cost + line_cost, (*starts, start))
        best = following
    starts = best[len(words)][1]
    return tuple(tuple(words[start:end]) for start, end in pairwise((*starts, len(words))))


def _fill(words: list[Timed], width: int) -> tuple[tuple[Timed, ...], ...]:
    """The words on lines of up to `width` characters, filled from the last; a longer word gets its own line."""
    lines: list[list[Timed]] = []
    used = 0
    for word in reversed(words):
        if lines and used + 1 + len(word.text) <= width:
            lines[-1].append(word)
            used += 1 + len(word.text)
        else:
            lines.append([word])
            used = len(word.text)
    return tuple(tuple(reversed(line)) for line in reversed(lines))
