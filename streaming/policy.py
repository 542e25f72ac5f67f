"""Which of the words that a stream's search has found may be committed now: pure functions of a hypothesis.

A word is committable once the search could no longer change it for the better: what it was heard in lies far enough
from the right edge of what has been heard. What is far enough is told by one of three policies:

- `attention`: the speller's attention has left the word and peaks that many frames from the edge;
- `ctc`: forced alignment puts the word's end that many frames from the edge;
- `agreement`: two searches in a row agree on the word and all before it (local agreement, Liu et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asr.config import choices, require
from asr.search import Hypothesis
from asr.search.alignment import align
from asr.text.tokenizer import Tokenizer

__all__ = ["FoundWord", "PolicyConfig", "committable", "found_words"]


@dataclass(frozen=True)
class PolicyConfig:
    """When a word is committed; `margin_ms` is its distance from the right edge."""

    kind: Literal["attention", "ctc", "agreement"] = "ctc"
    margin_ms: int = 640

    def __post_init__(self) -> None:
        choices(self, "kind")
        require(self.margin_ms >= 0, "policy.margin_ms", self.margin_ms, "at least 0")


@dataclass(frozen=True)
class FoundWord:
    """A word of a hypothesis that is not committed; frames count from the start of the segment."""

    text: str
    tokens: int  # how many tokens of the hypothesis spell all up to and including this word
    attention_frame: int  # the last at which the speller looked hardest while it spelled the word; 0 if not asked for
    first_frame: int  # by CTC alignment
    last_frame: int  # the one after its last
    confidence: float
    aligned: bool = True  # otherwise there are too few frames for all the words, and these are a guess


def committable(
    words: Sequence[FoundWord], before: Sequence[str], heard_frames: int, frame_ms: float, config: PolicyConfig
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


def found_words(
    tokenizer: Tokenizer, found: Hypothesis, log_probs: Tensor, start: int, peaks: Sequence[int] | None
) -> list[FoundWord]:
    """The words of a hypothesis.

    Args:
        tokenizer: that of the model.
        found: what follows the committed words.
        log_probs: `(T, V)` of the CTC head, of the segment so far, on the CPU.
        start: the frame in which the committed words end.
        peaks: for each token, the frame at which the speller looked hardest; None if nobody asks.
    """
    spans, count = align(log_probs[start:], found.tokens), len(found.tokens)
    aligned = spans is not None
    if spans is None:
        frames = len(log_probs) - start
        spans = [(i * frames // count, (i + 1) * frames // count) for i in range(count)]
    words = []
    for text, first, after in tokenizer.words(found.tokens):
        peak = max(peaks[first:after]) if peaks else 0
        confidence = min(1.0, math.exp(sum(found.token_scores[first:after]) / (after - first)))
        span = (start + spans[first][0], start + spans[after - 1][1])
        words.append(FoundWord(text, after, peak, *span, confidence, aligned))
    return words
