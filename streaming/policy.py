"""Commit policies: which words of a stream's latest hypothesis can be committed now.

A word can be committed once later audio would hardly change it, that is, once its audio is far enough from the edge,
the end of the audio so far. Three policies decide:

- `attention`: the decoder's attention has moved on from the word and peaked at least the margin before the edge;
- `ctc`: the word ends at least the margin before the edge, by forced alignment;
- `agreement`: two searches in a row found the word and all words before it (local agreement, Liu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asr.config import require
from asr.search.alignment import TimedWord
from asr.settings import choices

__all__ = ["PolicyConfig", "committable"]


@dataclass(frozen=True)
class PolicyConfig:
    """When a word is committed.

        config = streaming.StreamConfig(policy=streaming.PolicyConfig(margin_ms=400))

    Attributes:
        kind: "ctc" or "attention", which use the margin, or "agreement": two searches in a row found the word.
        margin_ms: distance of a word from the end of the audio so far. More gives fewer wrong words, later.

    Raises:
        ConfigError: a setting is out of its bounds.
    """

    kind: Literal["attention", "ctc", "agreement"] = "ctc"
    margin_ms: int = 640

    def __post_init__(self) -> None:
        choices(self, "kind")
        require(self.margin_ms >= 0, "policy.margin_ms", self.margin_ms, "at least 0")


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
    count = 0
    # The last word may still grow ("for" becomes "forty"), so it waits until another has begun.
    for i, word in enumerate(words[:-1]):
        if not word.aligned:
            break
        if config.kind == "attention":
            sure = word.attention_frame < edge and words[i + 1].attention_frame > word.attention_frame
        elif config.kind == "ctc":
            sure = word.last_frame < edge
        else:
            sure = i < len(before) and before[i] == word.text
        if not sure:
            break
        count += 1
    return count
