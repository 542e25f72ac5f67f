"""Interface between the parts of the writer: spoken words with pauses in, tags and written forms out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from asr.config import require

__all__ = [
    "CONTEXT_WORDS",
    "MARKS",
    "PARTIAL_CONTEXT_WORDS",
    "SENTENCE_ENDS",
    "Form",
    "Style",
    "Tag",
    "Tagger",
    "Utterance",
    "check_style",
]

Style = Literal["written", "spoken"]
"""written: capitals, punctuation and digits; spoken: the words as they were recognised, in lower case."""


def check_style(style: object) -> None:
    """Refuse anything but a `Style`.

    Raises:
        ConfigError: the message names the value and the known styles.
    """
    known = get_args(Style)
    require(isinstance(style, str) and style in known, "style", style, " or ".join(known))


MARKS = ("", ",", ".", "?", "!", ":", "—")
"""Marks that can follow a word; empty: no mark. A dash is set between spaces, the others directly after the word."""

SENTENCE_ENDS = (".", "?", "!")

CONTEXT_WORDS = 24
"""Words before a segment that a tagger sees. With 40, F1 is at most 0.6 points higher, and streams cost more."""

PARTIAL_CONTEXT_WORDS = 12
"""Words of context before an unfinished segment, which is tagged many times. With 24, F1 is 0.3 points higher for full
stops, and 2.0 for questions."""


class Utterance(NamedTuple):
    """Words to be tagged: all recognised words of a segment, and the words before it as context.

    Args:
        words: in lower case, as recognised.
        pauses: silence after each word, in seconds; None where it is unknown: without word times, and after the last
            word. As long as `words`.
        before: preceding words of the same stream or file, as context; they get no tags.
        final: whether the segment is finished; if not, the words after the last ones are still unknown.
    """

    words: Sequence[str]
    pauses: Sequence[float | None]
    before: Sequence[str] = ()
    final: bool = True


class Tag(NamedTuple):
    """A written word, and the mark after it.

    Args:
        text: the word with its capitals, except for one at the start of a sentence: "paris" → "Paris".
        mark: one of `MARKS`.
    """

    text: str
    mark: str


class Tagger(Protocol):
    """Finds capitals and punctuation."""

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        """A tag for each word of each utterance, independent of the rest of the batch."""


class Form(NamedTuple):
    """Words `start` to `end` (exclusive) are written as `text`: "twenty three" → "23"."""

    start: int
    end: int
    text: str
