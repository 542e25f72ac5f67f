"""Choice of one of a container's audio tracks."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from asr.errors import AudioError

__all__ = ["Track", "check_single_track", "select_track"]

Track: TypeAlias = "int | str | None"
"""An audio track: its number from 1 on, or its language in a code of ISO 639 (fr, fra, fre); None: chosen."""

LANGUAGE = "en"
"""The models' language."""

_NAMES = (
    "ar ara|bg bul|ca cat|cs ces cze|cy cym wel|da dan|de deu ger|el ell gre|en eng|es spa|et est|eu eus baq|"
    "fa fas per|fi fin|fr fra fre|ga gle|he heb|hi hin|hr hrv|hu hun|hy hye arm|id ind|is isl ice|it ita|"
    "ja jpn|ka kat geo|ko kor|lt lit|lv lav|mk mkd mac|ms msa may|nl nld dut|no nor nob nb|pl pol|pt por|"
    "ro ron rum|ru rus|sk slk slo|sl slv|sq sqi alb|sr srp|sv swe|th tha|tr tur|uk ukr|ur urd|vi vie|"
    "zh zho chi"
)
# The codes of each language in ISO 639-1 and 639-2; files and users may give any of them.
_CODES = {code: names.split()[0] for names in _NAMES.split("|") for code in names.split()}

_LOG = logging.getLogger(__name__)


def select_track(container: Any, track: Track, name: str) -> Any:
    """The stream of a track; a choice that the caller left open is logged as a warning.

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
            if wanted == str(number) or _code(wanted) == _code(_language(stream)):
                return stream
        if len(streams) == 1 and not wanted.isdigit() and _language(streams[0]) == "und":
            return streams[0]  # a single track whose language is not declared
        raise AudioError(name, f"has no audio track {track}: it has {known}")

    default = [stream for stream in streams if stream.disposition & av.stream.Disposition.default]
    english = [stream for stream in streams if _code(_language(stream)) == LANGUAGE]
    both = [stream for stream in english if stream in default]
    chosen = (both or english or default or streams)[0]
    if len(streams) > 1:
        _LOG.warning(
            "%s: has audio tracks %s: track %d is read (--track chooses another)",
            name,
            known,
            streams.index(chosen) + 1,
        )
    return chosen


def check_single_track(track: Track, name: str) -> None:
    """Check the chosen track of a file that can have only one, whose language is not declared.

    Raises:
        AudioError: `track` is a number other than 1.
    """
    number = str(1 if track is None else track).strip()
    if number.isdigit() and number != "1":
        raise AudioError(name, f"has a single audio track: there is no track {number}")


def _language(stream: Any) -> str:
    return str(stream.language or "und").lower()


def _code(language: str) -> str:
    """The canonical code of a language, also for a tag such as en-US."""
    language = language.partition("-")[0]
    return _CODES.get(language, language)
