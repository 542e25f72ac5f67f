"""Results of a transcription: plain, frozen values with times in seconds.

`Transcript` → `Segment` → `Word`. Times are on the clock of the source that was transcribed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr.errors import ConfigError, DataError
from asr.files import write_atomically
from asr.output import fields, formats
from asr.output.subtitles import SubtitleShape
from asr.output.timed import Alternative, Segment, Word

__all__ = ["Alternative", "Segment", "Transcript", "Word", "read_json"]


@dataclass(frozen=True)
class Transcript:
    """The text of one source, with times.

        transcript = asr.load("default").transcribe("talk.mp4")
        print(transcript.text)
        transcript.save("talk.srt")

    Args:
        source: name of the source: a path, "standard input", "array".
        duration_seconds: length of the source.
        segments: its segments in order; pauses between them hold no speech.
    """

    source: str
    duration_seconds: float
    segments: tuple[Segment, ...] = ()

    @property
    def text(self) -> str:
        """The whole text on one line."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def spoken(self) -> str:
        """The whole text as recognised, on one line: words in lower case, without marks."""
        return " ".join(segment.spoken for segment in self.segments if segment.spoken)

    def as_spoken(self) -> Transcript:
        """This transcript with all text and words as recognised."""
        return replace(self, segments=tuple(segment.as_spoken() for segment in self.segments))

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order; empty unless word times were requested."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_srt(self, shape: SubtitleShape | None = None) -> str:
        """SubRip subtitles; `shape` sets line width, lines and words per cue."""
        return formats.render(self, "srt", shape)

    def to_vtt(self, shape: SubtitleShape | None = None) -> str:
        """WebVTT subtitles; `shape` sets line width, lines and words per cue."""
        return formats.render(self, "vtt", shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `json.dumps`: source, duration_seconds, text, segments; times to the millisecond."""
        return fields.to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Transcript:
        """The inverse of `to_dict`.

        Raises:
            DataError: a field is missing or of the wrong type; the message names it.
        """
        return cls(*fields.read(values))

    def save(self, path: str | Path, shape: SubtitleShape | None = None) -> None:
        """Write a file atomically, in the format given by its extension: txt, json, srt, vtt or tsv.

        Args:
            path: where to write; an existing file is replaced.
            shape: line width, lines and words per cue of srt, vtt and tsv.

        Raises:
            ConfigError: the extension is none of these.
            DataError: the file cannot be written.
        """
        path = Path(path)
        name = path.suffix[1:].lower()
        if name not in formats.FORMATS:
            raise ConfigError(f"{path}: expected a name that ends in .{', .'.join(formats.FORMATS)}")
        write_atomically(path, formats.render(self, name, shape))


def read_json(text: str) -> Transcript:
    """Parse a transcript from a json file's text, times to the millisecond.

    Raises:
        DataError: `text` is not JSON, or a field is missing or of the wrong type; the message names the field.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"transcript: not JSON: {error}") from error
    return Transcript.from_dict(values)
