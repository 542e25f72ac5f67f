"""States kept by a beam search, from which a changed hypothesis can be scored without searching again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from asr.model.attention import Memory
from asr.model.decoder import DecoderState

__all__ = ["HotwordState", "NextScores", "Passed", "Path", "Trace"]


class Passed(NamedTuple):
    """The live hypotheses of a search before a token."""

    parents: Tensor  # (N,): rows before the last token
    owners: Tensor  # (N,): the utterance of each
    last: Tensor  # (N,): token
    added: Tensor  # (N,): score of the last token by the full scorers
    decoder: DecoderState  # (N)
    full: list[Any]  # states of the full scorers


class NextScores(NamedTuple):
    """Scores of every next token of the live hypotheses."""

    added: Tensor  # (N, V): by the full scorers
    by_decoder: Tensor  # (N, V): log-probabilities


class Path(NamedTuple):
    """The rows of a hypothesis in a search: before its first token, and after each."""

    rows: list[int]
    totals: list[float]  # scores by the full scorers so far


class HotwordState(NamedTuple):
    """State of an utterance's hotwords between the search that found them and the next one."""

    scores: Mapping[Any, Any] = {}  # of detours, by their tokens, the tokens they replace and the tokens around
    waiting: bool = False  # whether the last words were too recent to be replaced


class Trace:
    """The states of a search token by token, its attention memory and CTC output, and the state of the hotwords.

    It takes about 18 KB of memory for each live hypothesis and token of the default model.
    """

    def __init__(self) -> None:
        self.passed: list[Passed] = []
        self.scores: list[NextScores] = []  # of the token after each of `passed`; maybe none after the last
        self.memory: Memory | None = None
        self.ctc: Tensor | None = None  # (B, T, V): log-probabilities of the CTC head, from the prefix's first frame on
        self.hotwords: dict[int, HotwordState] = {}  # by utterance
        self.spans: dict[int, Sequence[tuple[int, int]]] = {}  # by utterance: `align` of the best hypothesis
        self._known: list[list[tuple[int, int, int, float]]] = []  # parent, owner, token and score of each row

    def add(self, passed: Passed) -> None:
        """Add the live hypotheses before the next token."""
        self.passed.append(passed)

    def add_scores(self, scores: NextScores) -> None:
        """Add the scores of the next token."""
        self.scores.append(scores)

    def path(self, utterance: int, tokens: Sequence[int]) -> Path:
        """The path to a hypothesis, up to where the search dropped it."""
        for passed in self.passed[len(self._known) :]:
            columns = (x.tolist() for x in (passed.parents, passed.owners, passed.last, passed.added))
            self._known.append(list(zip(*columns, strict=True)))
        for count in reversed(range(min(len(tokens) + 1, len(self._known)))):
            for row, (_, owner, _, _) in enumerate(self._known[count]):
                if owner == utterance and (found := self._back(row, tokens[:count])):
                    return found
        return Path([], [])

    def following(self, count: int, row: int) -> dict[int, int]:
        """The rows that continue a row of `count` tokens, by their next token; call `path` for its utterance first."""
        rows = enumerate(self._known[count + 1] if count + 1 < len(self._known) else [])
        return {token: i for i, (parent, _, token, _) in rows if parent == row}

    def _back(self, row: int, tokens: Sequence[int]) -> Path | None:
        """The path to a row after `tokens`; None if the row has other tokens."""
        rows, gains = [row], []
        for count in range(len(tokens), 0, -1):
            parent, _, token, added = self._known[count][rows[-1]]
            if token != tokens[count - 1]:
                return None
            rows.append(parent)
            gains.append(added)
        return Path(rows[::-1], list(accumulate(reversed(gains), initial=0.0)))
