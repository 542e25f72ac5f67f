"""Policies of a stream: which words of its latest hypothesis can be committed now, and which are shown before.

A word can be committed once later audio would hardly change it, that is, once its audio is far enough from the edge,
the end of the audio so far. Three policies decide:

- `attention`: the decoder's attention has moved on from the word and peaked at least the margin before the edge;
- `ctc`: the word ends at least the margin before the edge, by forced alignment; a smaller margin is enough where two
  searches in a row found the word and all words before it;
- `agreement`: two searches in a row found the word and all words before it (local agreement, Liu et al. 2020).

A word that ends close to the edge is often only the first part of one. It is shown when it ends further from the edge,
or when two searches in a row found it.
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

        config = streaming.StreamConfig(policy=streaming.PolicyConfig(margin_ms=400))

    Attributes:
        kind: "ctc" or "attention", which use the margin, or "agreement": two searches in a row found the word.
        margin_ms: distance of a word from the end of the audio so far. More gives fewer wrong words, later.
        agreement_ms: for "ctc", how much smaller the margin is for a word that two searches in a row found.
        show_margin_ms: distance from which a word is shown that only the latest search found. More gives fewer
            words that change, later.

    Raises:
        ConfigError: a setting is out of its bounds.
    """

    kind: Literal["attention", "ctc", "agreement"] = "ctc"
    margin_ms: int = 800
    agreement_ms: int = 320
    show_margin_ms: int = 120

    def __post_init__(self) -> None:
        choices(self, "kind")
        for name in ("margin_ms", "agreement_ms", "show_margin_ms"):
            require(getattr(self, name) >= 0, f"policy.{name}", getattr(self, name), "at least 0")

    @property
    def earliest_ms(self) -> int:
        """A word nearer to the end of the audio so far is not committed."""
        return max(0, self.margin_ms - self.agreement_ms) if self.kind == "ctc" else 0


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
    edge = heard_frames - config.margin_ms / frame_ms
    edge_if_agreed = heard_frames - max(0, config.margin_ms - config.agreement_ms) / frame_ms
    agreed, count = _agreed(words, before), 0
    # The last word may still grow ("for" becomes "forty"), so it waits until another has begun.
    for i, word in enumerate(words[:-1]):
        if not word.aligned:
            break
        if config.kind == "attention":
            sure = word.attention_frame < edge and words[i + 1].attention_frame > word.attention_frame
        elif config.kind == "ctc":
            sure = word.last_frame < (edge_if_agreed if i < agreed else edge)
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
    edge = heard_frames - config.show_margin_ms / frame_ms
    count = _agreed(words, before)
    while count < len(words) and words[count].last_frame <= edge:
        count += 1
    return count


def _agreed(words: Sequence[TimedWord], before: Sequence[str]) -> int:
    """The number of words, from the first on, that the previous search found too."""
    count = 0
    while count < min(len(words), len(before)) and words[count].text == before[count]:
        count += 1
    return count
