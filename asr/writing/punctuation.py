"""Punctuation and capitals: a `Tagger` with our own network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from asr.writing.network import PunctuationNetwork
from asr.writing.parts import CONTEXT_WORDS, Tag, Utterance
from asr.writing.vocabulary import Pause, Vocabulary, pause_kinds, write

__all__ = ["LOOKAHEAD_WORDS", "Punctuator"]

LOOKAHEAD_WORDS = 4
"""Words that must follow a word of an unfinished segment before it gets a mark."""

_WINDOW = 160  # a longer utterance is tagged in windows of this many words,
_AFTER = 24  # each with this many words of context after it, and `CONTEXT_WORDS` before it
_BATCH_WORDS = 3_072  # per batch, including padding: bounds the memory; larger batches have more padding


class _Window(NamedTuple):
    """Words that the network sees at once; it tags `tagged` words from `first` on, the others are context."""

    utterance: int
    words: list[str]
    pauses: npt.NDArray[np.int64]
    first: int
    tagged: int


class Punctuator:
    """Tags words with marks and capitals; see `asr.writing.parts.Tagger`.

    The last words of an unfinished utterance get no mark: at least `LOOKAHEAD_WORDS` must follow.

    Args:
        network: in evaluation mode.
        vocabulary: the network's own, from its training.
    """

    def __init__(self, network: PunctuationNetwork, vocabulary: Vocabulary) -> None:
        self.network, self.vocabulary = network, vocabulary

    def tag(self, utterances: Sequence[Utterance]) -> list[list[Tag]]:
        """A tag for each word of each utterance, independent of the rest of the batch.

        Raises:
            ValueError: the numbers of words and pauses of an utterance differ.
        """
        windows = [window for number, one in enumerate(utterances) for window in _windows(number, one)]
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].words))
        tagged: list[list[Tag]] = [[] for _ in windows]
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * len(windows[i].words) > _BATCH_WORDS:
                self._tag(windows, batch, tagged)
                batch = []
            batch.append(i)
        if batch:
            self._tag(windows, batch, tagged)

        result: list[list[Tag]] = [[] for _ in utterances]
        for window, tags in zip(windows, tagged, strict=True):
            result[window.utterance] += tags
        return [tags if one.final else _without_last_marks(tags) for one, tags in zip(utterances, result, strict=True)]

    @torch.inference_mode()
    def _tag(self, windows: Sequence[_Window], batch: Sequence[int], tagged: list[list[Tag]]) -> None:
        """Tag the windows of a batch into `tagged`."""
        lengths = [len(windows[i].words) for i in batch]
        encoded = self.vocabulary.encode([word for i in batch for word in windows[i].words])
        filled = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        device = self.network.marks.bias.device

        def rows(values: npt.NDArray[np.int64]) -> torch.Tensor:
            padded = torch.zeros(*filled.shape, *values.shape[1:], dtype=torch.long)
            padded[filled] = torch.from_numpy(values)
            return padded.to(device)

        pauses = np.concatenate([windows[i].pauses for i in batch])
        logits = self.network(
            rows(encoded.words), rows(encoded.pieces), rows(pauses), torch.tensor(lengths, device=device)
        )
        marks, cases = (each.argmax(-1).tolist() for each in logits)
        names, lexicon = self.network.config.marks, self.vocabulary.lexicon
        for row, i in enumerate(batch):
            window = windows[i]
            chosen = slice(window.first, window.first + window.tagged)
            tagged[i] = [
                Tag(write(word, case, lexicon), names[mark])
                for word, mark, case in zip(window.words[chosen], marks[row][chosen], cases[row][chosen], strict=True)
            ]


def _windows(number: int, utterance: Utterance) -> list[_Window]:
    """An utterance as windows with the words around them."""
    words, before = list(utterance.words), list(utterance.before[-CONTEXT_WORDS:])
    if len(words) != len(utterance.pauses):
        raise ValueError(f"utterance {number} has {len(words)} words, but {len(utterance.pauses)} pauses")
    if not words:
        return []
    pauses = pause_kinds(utterance.pauses)
    pauses[-1] = Pause.END if utterance.final else Pause.UNFINISHED
    if before:
        words = before + words
        kinds = np.full(len(before), int(Pause.UNKNOWN))
        kinds[-1] = Pause.END
        pauses = np.concatenate([kinds, pauses])
    windows = []
    for start in range(len(before), len(words), _WINDOW):
        count = min(_WINDOW, len(words) - start)
        first, after = max(0, start - CONTEXT_WORDS), start + count + _AFTER
        windows.append(_Window(number, words[first:after], pauses[first:after], start - first, count))
    return windows


def _without_last_marks(tags: list[Tag]) -> list[Tag]:
    settled = max(0, len(tags) - LOOKAHEAD_WORDS)
    return tags[:settled] + [tag._replace(mark="") for tag in tags[settled:]]
