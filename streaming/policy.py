"""Which of the words that a stream's search has found may be committed now: pure functions of a hypothesis.

A word is committable once the search could no longer change it for the better: what it was heard in lies far enough
from the right edge of what has been heard. What is far enough is told by one of three policies:

- `attention`: the speller's attention has left the word and peaks that many frames from the edge;
- `ctc`: forced alignment puts the word's end that many frames from the edge;
- `agreement`: two searches in a row agree on the word and all before it (local agreement, Liu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asr.config import choices, require
from asr.search.alignment import TimedWord

__all__ = ["PolicyConfig", "committable"]


@dataclass(frozen=True)
class PolicyConfig:
    """When a word is committed; `margin_ms` is its distance from the right edge."""

    kind: Literal["attention", "ctc", "agreement"] = "ctc"
    margin_ms: int = 640

    def __post_init__(self) -> None:
        choices(self, "kind")
        require(self.margin_ms >= 0, "policy.margin_ms", self.margin_ms, "at least 0")


def committable(
    words: Sequence[TimedWord], before: Sequence[str], heard_frames: int, frame_ms: float, config: PolicyConfig
) -> int:
    """How many of the words, from the first, may be committed.

    Args:
        words: the hypothesis after what is committed.
        before: the words that the search found a chunk earlier, after what is committed now.
        heard_frames: frames of the segment so far.
        frame_ms: length of a frame.
        config: the policy.
    """
    edge = heard_frames - config.margin_ms / frame_ms
    count = 0
    # The last word may still grow: "for" becomes "forty". It has to wait until another has begun.
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
