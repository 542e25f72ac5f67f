"""Checks of an utterance for training: its text, its audio, and whether the two can belong together."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE, blocks
from asr.config import require
from asr.errors import AudioError
from asr.text.normalise import normalise, plain
from asr.training.corpus.readers import Candidate, Problem

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DurationLimits", "Linked", "Samples", "check_text", "examine", "link"]

Samples: TypeAlias = npt.NDArray[np.int16]  # (samples,), 16 kHz mono

MAX_LETTERS_PER_SECOND = 35.0  # the fastest readers reach 27; above it, text and audio do not belong together
_CUT_SHORT_SECONDS = 0.5  # tolerance between durations in tables and in files


@dataclass(frozen=True)
class DurationLimits:
    """Shortest and longest utterance."""

    min_seconds: float = 0.2
    max_seconds: float = 40.0

    def __post_init__(self) -> None:
        require(0 < self.min_seconds < self.max_seconds, "min_seconds", self.min_seconds, "in 0..max_seconds")
        require(self.max_seconds <= 120, "max_seconds", self.max_seconds, "at most 120")


class Linked(NamedTuple):
    """Position of an utterance in an audio file, in the file's own samples."""

    sample_rate: int
    frames: int  # of the whole file
    start: int
    samples: int


def check_text(candidate: Candidate) -> str | Problem:
    """The normalised text.

    Punctuation is removed. Digits, emoji and letters beyond a-z are a problem, since their spoken form is unknown.
    """
    written = candidate.text
    if written is None or not written.strip():
        return Problem(candidate.id, "no text", "it has no text")
    text = normalise(written)
    if text is not None:
        return text
    odd = "".join(dict.fromkeys(re.findall(r"[^\x00-\x7f]|[0-9]", plain(written))))
    if not odd:
        return Problem(candidate.id, "no text", f"its text has no word: {_short(written)!r}")
    return Problem(candidate.id, "characters", f"its text has {_short(odd, 12)!r}: {_short(written)!r}")


def examine(
    path: Path, candidates: Sequence[Candidate], texts: Sequence[str], limits: DurationLimits
) -> list[Samples | Problem]:
    """Decode an audio file once and check the utterances in it.

    Args:
        path: the audio file.
        candidates: utterances in it.
        texts: their normalised texts.
        limits: on their durations.

    Returns:
        For each, its samples (16 kHz mono) or its problem. A file that cannot be read up to the end of its last
        utterance is a problem of all of them.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise AudioError(path, "is not a file" if path.exists() else "no such file")
        decoded = _decode(path, candidates, limits)
    except (AudioError, OSError) as error:
        kind = "unreadable audio" if os.path.exists(path) else "missing audio"  # noqa: PTH110 - never raises
        return [Problem(c.id, kind, str(error)) for c in candidates]
    except Exception as error:  # a decoding library's own: concerns this file alone
        return [Problem(c.id, "unreadable audio", f"{path}: {type(error).__name__}: {error}") for c in candidates]
    checked = zip(candidates, texts, decoded, strict=True)
    return [_wrong(candidate, text, samples, limits) or samples for candidate, text, samples in checked]


def link(
    path: Path, candidates: Sequence[Candidate], found: Sequence[Samples | Problem]
) -> list[Samples | Linked | Problem]:
    """Positions in their file of utterances that passed `examine`. lhotse must be able to read the file as it is."""
    import soundfile

    if all(isinstance(one, Problem) for one in found):
        return list(found)
    try:
        about = soundfile.info(str(path))
        wrong = f"it has {about.channels} channels" if about.channels > 1 else None
        str(path).encode()
    except UnicodeEncodeError:
        about, wrong = None, "its name is not Unicode"
    except (OSError, soundfile.LibsndfileError):
        about, wrong = None, "libsndfile cannot read it"
    linked: list[Samples | Linked | Problem] = []
    for candidate, samples in zip(candidates, found, strict=True):
        if isinstance(samples, Problem):
            linked.append(samples)
        elif wrong is not None:
            linked.append(Problem(candidate.id, "cannot be linked", f"{path}: {wrong}: use the store `copy`"))
        else:
            rate, frames = about.samplerate, about.frames
            start = round((candidate.start_seconds or 0.0) * rate)
            linked.append(Linked(rate, frames, start, min(frames - start, round(len(samples) * rate / SAMPLE_RATE))))
    return linked


def _decode(path: Path, candidates: Sequence[Candidate], limits: DurationLimits) -> list[Samples]:
    """Samples of each candidate. Reading stops once an utterance is known to be too long."""
    import torch

    longest = round(limits.max_seconds * SAMPLE_RATE) + 1
    spans: list[tuple[int, int]] = []
    for c in candidates:
        start = round((c.start_seconds or 0.0) * SAMPLE_RATE)
        whole = c.start_seconds is None or c.seconds is None
        spans.append((start, start + (longest if whole else min(longest, round((c.seconds or 0.0) * SAMPLE_RATE)))))
    parts: list[list[Tensor]] = [[torch.zeros(0)] for _ in spans]
    position, last = 0, max(end for _, end in spans)
    with contextlib.closing(blocks(path)) as stream:
        for block in stream:
            for part, (start, end) in zip(parts, spans, strict=True):
                if start < position + len(block) and position < end:
                    part.append(block[max(0, start - position) : end - position].clone())
            position += len(block)
            if position >= last:
                break
    # 16-bit files come out bit-exact.
    return [(torch.cat(p) * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy() for p in parts]


def _wrong(candidate: Candidate, text: str, samples: Samples, limits: DurationLimits) -> Problem | None:
    seconds, said, audio = len(samples) / SAMPLE_RATE, candidate.seconds or 0.0, candidate.audio
    judgements = (
        (seconds > limits.max_seconds, "too long", f"it lasts more than {limits.max_seconds:g} s"),
        (
            seconds < said - max(_CUT_SHORT_SECONDS, 0.02 * said),
            "cut short",
            f"{audio}: holds {seconds:.2f} s of the {said:.6g} s that the corpus states",
        ),
        (seconds < limits.min_seconds, "too short", f"it lasts {seconds:.3f} s, less than {limits.min_seconds:g} s"),
        (not samples.any(), "silent", f"{audio}: every sample is zero"),
        (
            len(text) > MAX_LETTERS_PER_SECOND * seconds,
            "too fast",
            f"{len(text)} letters in {seconds:.2f} s: not the text of this audio",
        ),
    )
    return next((Problem(candidate.id, kind, reason) for wrong, kind, reason in judgements if wrong), None)


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "…"
