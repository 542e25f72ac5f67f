"""Kinds of files: extensions of readable files, and detection from the first bytes."""

from __future__ import annotations

import codecs
from pathlib import PurePath

__all__ = ["FFMPEG_FORMATS", "SUFFIXES", "headerless_hint", "not_audio", "reads_as_container"]

# fmt: off
SUFFIXES = frozenset({
    # samples with a header
    ".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc",
    ".sph", ".nist", ".sds", ".avr", ".iff", ".8svx",
    # compressed speech and music
    ".mp3", ".mp2", ".mp1", ".mpa", ".mpga", ".ogg", ".oga", ".ogx", ".opus", ".spx", ".aac", ".ac3", ".eac3", ".amr",
    ".awb", ".gsm", ".ape", ".wma", ".wv", ".tta", ".tak", ".shn", ".mpc", ".dts", ".dsf", ".oma", ".aa3", ".aax",
    # containers
    ".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".f4a", ".f4v", ".mov", ".qt", ".3gp", ".3g2", ".3ga", ".mkv", ".mka",
    ".webm", ".weba", ".avi", ".divx", ".asf", ".wmv", ".mpg", ".mpeg", ".ts", ".mts", ".m2t", ".m2ts", ".flv",
    ".ogv", ".vob", ".mxf", ".nut", ".rm", ".ra", ".rmvb", ".wtv",
})
# fmt: on
"""Extensions, in lower case, of files to be found in folders."""

# Only formats that contain their audio, not those that refer to other files (hls, dash, concat, ...).
FFMPEG_FORMATS = (
    "3gp,aa,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,ivf,loas,matroska,mov,mp3,mpc,mpc8,"
    "mpeg,mpegts,mxf,nut,ogg,oma,rm,shn,sox,swf,tak,truehd,tta,voc,w64,wav,webm,wtv,wv"
)

# fmt: off
_HEADERLESS = {
    ".raw", ".pcm", ".lpcm", ".s8", ".u8", ".s16", ".s16le", ".s16be", ".s24le", ".s32le", ".f32", ".f32le", ".sw",
    ".sln", ".vox", ".lin", ".ulaw", ".alaw", ".ul", ".al", ".mulaw", ".g711", ".g711u", ".g711a", ".g722", ".g729",
}
# fmt: on
_NOT_AUDIO = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
}
_CONTAINER_HEADS = (b"OggS", b"ID3", b"\x1a\x45\xdf\xa3")


def reads_as_container(head: bytes) -> bool:
    """Whether ffmpeg's libraries should read a file that starts with `head`, even if libsndfile can read it too.

    Ogg: libsndfile stops after the first of several chained streams. MP3: it stops at a damaged spot, and its libmpg123
    writes to standard error.
    """
    return head.startswith(_CONTAINER_HEADS) or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def headerless_hint(name: str) -> str | None:
    """Advice for a file whose extension implies that it has no header; None for other extensions."""
    if PurePath(name).suffix.lower() not in _HEADERLESS:
        return None
    return "has no header with its rate and encoding: pipe it to `listen --stdin --sample-rate HZ`"


def not_audio(head: bytes) -> str | None:
    """The kind of a file that is recognisably not audio, given its first bytes; None otherwise."""
    for magic, kind in _NOT_AUDIO.items():
        if head.startswith(magic):
            return kind
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: `head` may end within a character
    except UnicodeDecodeError:
        return None
    return "text" if all(character.isprintable() or character.isspace() for character in text) else None
