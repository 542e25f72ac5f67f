"""Files written during a stream: recording and transcript, both valid whenever the program ends or is killed."""

from __future__ import annotations

import contextlib
import json
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.errors import DataError
from asr.output.formats import render
from asr.transcript import Segment, Transcript, Word
from streaming.events import Event, Partial

__all__ = ["TranscriptWriter", "WavWriter", "transcript_file"]

_WAV_BYTES = (1 << 32) - (1 << 16)  # the size field of a WAV file has 32 bits: 37 hours at 16 kHz


class WavWriter:
    """A 16 kHz, 16-bit mono WAV file whose header is updated after every chunk.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._bytes = path, 0
        self._file = path.open("wb")
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115 - closed in __exit__
        self._wave.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
        self._append(b"")

    def write(self, chunk: Tensor) -> None:
        """Append `(samples,)`.

        Raises:
            DataError: the file cannot be written to, or is full.
        """
        samples = (chunk * 2.0**15).round().clamp(-(2**15), 2**15 - 1)
        self._append(samples.numpy().astype("<i2").tobytes())

    def _append(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _WAV_BYTES:
            raise DataError(f"{self._path}: is full: a WAV file holds 4 GiB at most")
        try:
            self._wave.writeframes(data)
            self._file.flush()
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for closing in (self._wave, self._file):
            with contextlib.suppress(OSError):  # everything was flushed, unless that failed before
                closing.close()


class TranscriptWriter:
    """Writes each final as soon as it arrives, to a file or to standard output.

    Args:
        file: a text file.
        name: its name for messages.
        format: txt (a line for each final), jsonl, srt or vtt.
        partials: also write partials; only with jsonl, whose lines have a type.
    """

    def __init__(self, file: TextIO, name: str, format: str, *, partials: bool = False) -> None:  # noqa: A002
        self._file, self._name, self._partials = file, name, partials
        self._cues = 0  # written so far
        self._render: Callable[[Segment], str] = {
            "txt": lambda segment: render(_transcript(segment), "txt"),
            "jsonl": _final_line,
            "srt": self._srt,
            "vtt": lambda segment: "\n" + _after_header(render(_transcript(segment), "vtt")),
        }[format]
        if format == "vtt":
            self._write(render(Transcript(name, 0.0), "vtt"))

    def show(self, event: Event) -> None:
        """Write the event.

        Raises:
            DataError: it cannot be written.
        """
        if isinstance(event, Partial):
            if self._partials:
                self._write(_partial_line(event))
        elif event.text or self._partials:  # a final without words retracts those of its partials
            self._write(self._render(event.segment))

    def _srt(self, segment: Segment) -> str:
        """The segment's cues, numbered after those before it."""
        cues = render(_transcript(segment), "srt").split("\n\n")
        texts = [cue.partition("\n")[2].rstrip("\n") for cue in cues]
        first, self._cues = self._cues + 1, self._cues + len(texts)
        return "".join(f"{'' if n == 1 else chr(10)}{n}\n{text}\n" for n, text in enumerate(texts, start=first))

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DataError(f"{self._name}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def transcript_file(path: Path, format: str) -> Iterator[TranscriptWriter]:  # noqa: A002
    """A writer to a new file, which replaces an existing one."""
    file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
    try:
        yield TranscriptWriter(file, str(path), format)
    finally:
        with contextlib.suppress(OSError):  # everything was flushed, unless that failed before
            file.close()


def _transcript(segment: Segment) -> Transcript:
    """The segment alone; its end, where the next may begin, is the latest end of a cue."""
    return Transcript("", segment.end_seconds, (segment,))


def _after_header(vtt: str) -> str:
    return vtt.partition("\n\n")[2]


def _final_line(segment: Segment) -> str:
    spoken: dict[str, object] = {}
    if segment.spoken_text is not None:
        spoken = {"spoken": segment.spoken_text, "spoken_words": _words(segment.spoken_words)}
    return _line(
        {
            "type": "final",
            "start": round(segment.start_seconds, 3),
            "end": round(segment.end_seconds, 3),
            "text": segment.text,
            "words": _words(segment.words),
            **spoken,
        }
    )


def _partial_line(event: Partial) -> str:
    return _line(
        {
            "type": "partial",
            "heard": round(event.heard_seconds, 3),
            "text": event.text,
            "committed": _words(event.committed),
            "tentative": _words(event.tentative),
        }
    )


def _words(words: Sequence[Word]) -> list[dict[str, object]]:
    return [
        {
            "text": word.text,
            "start": round(word.start_seconds, 3),
            "end": round(word.end_seconds, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in words
    ]


def _line(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"
