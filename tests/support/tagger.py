"""A rule-based tagger, for tests of the writer."""

from __future__ import annotations

from collections.abc import Sequence

from asr.writing.parts import Tag, Utterance

__all__ = ["RuleTagger"]

_MARKS = {"e": ".", "t": ",", "d": "?", "g": "—"}


class RuleTagger:
    """Tags a word with the mark of its last letter unless the previous word ends in it, and Paris with a capital.

    Like a trained tagger, it uses the words of earlier segments, and gives the last word of an unfinished utterance
    no mark. `batches` has the number of utterances of each call.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        self.batches.append(len(utterances))
        return [_tags(utterance) for utterance in utterances]


def _tags(utterance: Utterance) -> list[Tag]:
    previous, tags = "".join(utterance.before[-1:]), []
    for at, word in enumerate(utterance.words):
        unknown = at == len(utterance.words) - 1 and not utterance.final
        mark = "" if unknown or word[-1:] == previous[-1:] else _MARKS.get(word[-1], "")
        tags.append(Tag("Paris" if word == "paris" else word, mark))
        previous = word
    return tags
