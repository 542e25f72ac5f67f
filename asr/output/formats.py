"""`Transcript` → text: plain text, JSON, SubRip, WebVTT and TSV."""

from __future__ import annotations

import json
from collections.abc import Callable

from asr.errors import ConfigError, DataError
from asr.output.fields import to_dict
from asr.output.subtitles import SubtitleShape, srt, tsv, vtt
from asr.output.timed import TimedText

__all__ = ["CUES", "FORMATS", "parse_formats", "render"]


def render(transcript: TimedText, format: str, shape: SubtitleShape | None = None) -> str:  # noqa: A002
    """The transcript as the content of a file.

    Segments without text appear in json only. An empty transcript gives a valid file without entries.

    Args:
        transcript: what to write.
        format: one of `FORMATS`.
        shape: line width and other limits of the cues in srt, vtt and tsv.

    Raises:
        ConfigError: `format` is not one of `FORMATS`.
        DataError: a time (or, for json, a score) is not a finite number.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; choose from {', '.join(FORMATS)}")
    if format in CUES:
        return CUES[format](transcript, shape or SubtitleShape())
    return _json(transcript) if format == "json" else _txt(transcript)


def parse_formats(names: str) -> tuple[str, ...]:
    """The formats in a comma-separated list such as `txt,json`, each once; `all` stands for every format.

    Raises:
        ConfigError: the list is empty or names an unknown format.
    """
    chosen: dict[str, None] = {}  # a dict keeps the given order
    for name in (part.strip().lower() for part in names.split(",")):
        if name == "all":
            chosen.update(dict.fromkeys(FORMATS))
        elif name in FORMATS:
            chosen[name] = None
        else:
            raise ConfigError(f"unknown format {name!r} in {names!r}; choose from {', '.join(FORMATS)} or all")
    return tuple(chosen)


def _txt(transcript: TimedText) -> str:
    lines = (" ".join(segment.text.split()) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def _json(transcript: TimedText) -> str:
    try:
        return json.dumps(to_dict(transcript), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    except ValueError as error:
        raise DataError(f"{transcript.source}: a time or score is not a finite number") from error


CUES: dict[str, Callable[[TimedText, SubtitleShape], str]] = {"srt": srt, "vtt": vtt, "tsv": tsv}
"""The formats with cues, which depend on a `SubtitleShape` and improve with word times."""

FORMATS: tuple[str, ...] = ("txt", "json", *CUES)
"""The names of the formats, which are also the extensions of their files."""
