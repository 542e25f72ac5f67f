"""Live use of recognisers for whole files, as in Whisper's streaming servers: a growing buffer and local agreement.

After Macháček, Dabre and Bojar 2023 and their whisper_streaming: after each second of new audio, the buffer is
recognised again. Words that agree in two passes in a row are committed. A buffer of more than 15 s is cut at the end of
a committed segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.text.normalise import normalise
from asr.transcript import Segment, Word
from recipes.benchmark.peers import BEAM, load_whisper
from streaming.events import Event, Final, Partial

__all__ = ["Agreement", "Pass", "hear", "whisper"]

STEP_SECONDS = 1.0  # least amount of new audio between two passes
BUFFER_SECONDS = 15.0  # length beyond which the buffer is cut
PROMPT_CHARACTERS = 200  # of committed text before the buffer
NEAR_SECONDS = 1.0  # distance within which a pass may repeat committed words at its start
REPEATED_WORDS = 5  # most words that a pass may repeat
SLACK_SECONDS = 0.1  # tolerance for the start of a word before the end of the committed ones

# Samples `(N,)` and a prompt → the words of each segment, with times from the first sample.
Pass = Callable[[Tensor, str], list[list[Word]]]


class Agreement(NamedTuple):
    """Local agreement of two passes, as a value."""

    committed: tuple[Word, ...] = ()
    tentative: tuple[Word, ...] = ()  # of the last pass, after those

    @property
    def end_seconds(self) -> float:
        """The end of the committed words."""
        return self.committed[-1].end_seconds if self.committed else 0.0

    def after(self, words: Sequence[Word]) -> Agreement:
        """The state after the next pass, with times from the start of the stream."""
        new = [word for word in words if word.start_seconds > self.end_seconds - SLACK_SECONDS]
        new = new[self._repeated(new) :]
        same = [
            a for a, _ in takewhile(lambda pair: pair[0].text == pair[1].text, zip(new, self.tentative, strict=False))
        ]
        return Agreement((*self.committed, *same), tuple(new[len(same) :]))

    def _repeated(self, new: Sequence[Word]) -> int:
        """Number of committed words that a pass repeats at its start."""
        if not new or abs(new[0].start_seconds - self.end_seconds) >= NEAR_SECONDS:
            return 0
        known, found = ([word.text for word in words] for words in (self.committed, new))
        counts = range(1, min(len(known), len(found), REPEATED_WORDS) + 1)
        return next((count for count in counts if known[-count:] == found[:count]), 0)


def hear(
    recognise: Pass, waveform: Tensor, timer: Callable[[], float]
) -> tuple[list[tuple[Event, float]], list[float]]:
    """Process a recording as a live stream.

    The stream's clock is at the end of the received audio, or later if a pass takes longer; the next pass includes all
    audio up to the clock.

    Args:
        recognise: a pass over the buffer.
        waveform: `(samples,)` at 16 kHz.
        timer: clock for computing time, in seconds.

    Returns:
        Events with their clock in seconds, and the compute time of each pass.
    """
    total, clock, heard, start = len(waveform) / SAMPLE_RATE, 0.0, 0.0, 0.0
    agreement, shown, costs = Agreement(), list[tuple[Event, float]](), list[float]()
    while heard < total:
        clock = max(clock, min(total, heard + STEP_SECONDS))
        heard = min(total, clock)
        before = [word.text for word in agreement.committed if word.end_seconds <= start]
        prompt = " ".join(before)[-PROMPT_CHARACTERS:]
        began = timer()
        segments = recognise(waveform[round(start * SAMPLE_RATE) : round(heard * SAMPLE_RATE)], prompt)
        costs.append(timer() - began)
        clock += costs[-1]

        segments = [[_later(word, start) for word in words] for words in segments]
        agreement = agreement.after([word for words in segments for word in words])
        committed, tentative = spoken(agreement.committed), spoken(agreement.tentative)
        if heard < total:
            shown.append((Partial(committed, tentative, heard), clock))
            if heard - start > BUFFER_SECONDS:
                start = _cut(segments, agreement.end_seconds, start)
        else:
            words = (*committed, *tentative)
            text = " ".join(word.text for word in words)
            shown.append((Final(Segment(text, 0.0, total, 0.0, words), heard), clock))
    return shown, costs


def spoken(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words in normalised form, as for a word error rate; one with a hyphen becomes several."""
    return tuple(replace(word, text=text) for word in words for text in (normalise(word.text) or "").split())


def whisper(folder: Path) -> Pass:
    """Whisper with the options of its streaming servers: beam 5, word times, voice activity detection."""
    model = load_whisper(folder)

    def recognise(waveform: Tensor, prompt: str) -> list[list[Word]]:
        segments, _ = model.transcribe(
            waveform.numpy(),
            language="en",
            initial_prompt=prompt or None,
            beam_size=BEAM,
            word_timestamps=True,
            condition_on_previous_text=True,
            vad_filter=True,
        )
        return [
            [Word(word.word.strip(), word.start, word.end, word.probability) for word in segment.words or ()]
            for segment in segments
        ]

    return recognise


def _later(word: Word, seconds: float) -> Word:
    return replace(word, start_seconds=word.start_seconds + seconds, end_seconds=word.end_seconds + seconds)


def _cut(segments: Sequence[Sequence[Word]], committed_seconds: float, start: float) -> float:
    """New start of the buffer: the end of the last committed segment, not counting the newest segment."""
    ends = [words[-1].end_seconds for words in segments if words][:-1]
    return max([start, *(end for end in ends if end <= committed_seconds)])
