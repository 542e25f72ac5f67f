"""Which of a container's audio tracks is read."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from asr.errors import AudioError

__all__ = ["Track", "select_track"]

Track: TypeAlias = "int | str | None"
"""An audio track: its number from 1 on, or its language as the file spells it (eng, fre); None: chosen."""

LANGUAGES = ("eng", "en")
"""The models' language, as containers spell it."""

_LOG = logging.getLogger(__name__)


def select_track(container: Any, track: Track, name: str) -> Any:
    """The stream of a track; where there is a choice and none was named, a warning says what was chosen.

    Raises:
        AudioError: there is no audio track, or none of that number or language.
    """
    import av

    streams = list(container.streams.audio)
    if not streams:
        raise AudioError(name, "has no audio track")
    known = ", ".join(f"{number} ({_language(stream)})" for number, stream in enumerate(streams, 1))
    if track is not None:
        wanted = str(track).strip().lower()
        for number, stream in enumerate(streams, 1):
            if wanted in (str(number), _language(stream)) or (len(wanted) == 2 and _language(stream)[:2] == wanted):
                return stream
        if len(streams) == 1 and not wanted.isdigit() and _language(streams[0]) == "und":
            return streams[0]  # of a language that the file does not tell
        raise AudioError(name, f"has no audio track {track}: it has {known}")

    default = [stream for stream in streams if stream.disposition & av.stream.Disposition.default]
    own = [stream for stream in streams if _language(stream) in LANGUAGES]
    chosen = next((stream for stream in own if stream in default), None) or next(iter(own or default or streams))
    if len(streams) > 1:
        _LOG.warning(
            "%s: has audio tracks %s: track %d is read (--track chooses another)",
            name,
            known,
            streams.index(chosen) + 1,
        )
    return chosen


def _language(stream: Any) -> str:
    return str(stream.language or "und").lower()
