"""Policies of a stream: which words of its latest hypothesis can be committed now, and which are shown before.

A word can be committed once later audio would hardly change it, that is, once its audio is far enough from the edge,
the end of the audio so far. Three policies decide:

- `attention`: the decoder's attention has moved on from the word and peaked at least the margin before the edge;
- `ctc`: the word ends at least the margin before the edge, by forced alignment; a smaller margin is enough where two
  searches in a row found the word and all words before it;
- `agreement`: two searches in a row found the word and all words before it (local agreement, Liu et al. 2020).

The margin grows with doubt, which is 1 - confidence: the decoder's confidence predicts best whether later audio will
change a word.

A word that ends close to the edge is often only the first part of one. It is shown when it ends further from the edge,
at once if there is no doubt, or when two searches in a row found it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asr.config import require
from asr.search.alignment import TimedWord
from asr.settings import choices

__all__ = ["PolicyConfig", "committable", "showable"]


@dataclass(frozen=True)
class PolicyConfig:
    """When a word is committed.

        config = streaming.StreamConfig(policy=streaming.PolicyConfig(margin_ms=600))

    Attributes:
        kind: "ctc" or "attention", which use the margin, or "agreement": two searches in a row found the word.
        margin_ms: least distance of a word of confidence 1 from the end of the audio so far. A larger margin commits
            fewer wrong words, but later.
        agreement_ms: for "ctc", how much smaller the margin is for a word that two searches in a row found.
        show_margin_ms: least distance at which a word of confidence 0 is shown if only the latest search found it, in
            proportion to 1 - confidence. A larger margin shows fewer words that change, but later.
        doubt_ms: extra margin of a word of confidence 0, in proportion to 1 - confidence.

    Raises:
        ConfigError: a setting is out of its bounds.
    """

    kind: Literal["attention", "ctc", "agreement"] = "ctc"
    margin_ms: int = 400
    agreement_ms: int = 320
    show_margin_ms: int = 400
    doubt_ms: int = 720

    def __post_init__(self) -> None:
        choices(self, "kind")
        for name in ("margin_ms", "agreement_ms", "show_margin_ms", "doubt_ms"):
            require(getattr(self, name) >= 0, f"policy.{name}", getattr(self, name), "at least 0")

    def earliest_ms(self, step_ms: int) -> int:
        """The least distance of a committed word from the end of the audio so far, with a search every `step_ms`.

        The audio of a word found by two searches in a row is at least one step old.
        """
        if self.kind == "agreement":
            return step_ms
        sooner = self.agreement_ms if self.kind == "ctc" else 0
        return min(self.margin_ms, max(self.margin_ms - sooner, step_ms))


def committable(
    words: Sequence[TimedWord], before: Sequence[str], heard_frames: int, frame_ms: float, config: PolicyConfig
) -> int:
    """The number of words, from the first on, that can be committed.

    Args:
        words: the hypothesis after the committed words.
        before: the words of the previous search, after the same committed words.
        heard_frames: frames of the segment so far, counted like those of `words`.
        frame_ms: length of a frame.
        config: the policy.
    """
    agreed, count = _agreed(words, before), 0
    # The last word may still grow ("for" becomes "forty"), so it waits until another has begun.
    for i, word in enumerate(words[:-1]):
        if not word.aligned:
            break
        margin_ms = config.margin_ms + config.doubt_ms * (1 - word.confidence)
        if config.kind == "attention":
            left = words[i + 1].attention_frame > word.attention_frame
            sure = left and word.attention_frame < heard_frames - margin_ms / frame_ms
        elif config.kind == "ctc":
            margin_ms = max(0.0, margin_ms - config.agreement_ms) if i < agreed else margin_ms
            sure = word.last_frame < heard_frames - margin_ms / frame_ms
        else:
            sure = i < agreed
        if not sure:
            break
        count += 1
    return count


def showable(
    words: Sequence[TimedWord], before: Sequence[str], heard_frames: int, frame_ms: float, config: PolicyConfig
) -> int:
    """The number of words, from the first on, that are shown; arguments as for `committable`."""
    for count in range(_agreed(words, before), len(words)):
        # Rounded to whole frames, since the confidence of a certain word may differ from 1 by rounding.
        margin = round(config.show_margin_ms * (1 - words[count].confidence) / frame_ms)
        if words[count].last_frame > heard_frames - margin:
            return count
    return len(words)


def _agreed(words: Sequence[TimedWord], before: Sequence[str]) -> int:
    """The number of words, from the first on, that the previous search found too."""
    count = 0
    while count < min(len(words), len(before)) and words[count].text == before[count]:
        count += 1
    return count
