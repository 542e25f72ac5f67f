"""Hotwords: phrases of a list put into a hypothesis where they were said, after the search.

Where CTC has spotted a phrase (`asr.search.spotting`), the phrase replaces the words of the best hypothesis if the
whole score of the search, plus the worth of the phrase, is then higher. Phrases that the hypothesis already holds have
the same worth, so that none is replaced by one that fits worse. Other words stay as they are, and a phrase counts once
in each place, whatever its weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search.alignment import align
from asr.search.beams import Prefix
from asr.search.ctc import from_frame
from asr.search.forced import AFTER, Detour, Scored, score_detours
from asr.search.hypothesis import Hypothesis
from asr.search.spotting import Spot, Spotter
from asr.search.trace import HotwordState, Trace
from asr.steps import Steps, finish
from asr.text.tokenizer import BLANK, UNKNOWN, Tokenizer

__all__ = ["Earlier", "place_hotwords", "place_hotwords_steps"]

_VARIANTS = 2  # of a spot that are scored in full
# A detour is dropped when its gain by the other scorers falls below `_STAKE_SHARE` times its stake minus `_GAIN_SHARE`
# times its gain before they score it: the less likely CTC finds it, the less it may fall behind.
_STAKE_SHARE, _GAIN_SHARE = 0.4, 1.6
_CLEAR = 1.0  # a detour that is further ahead is accepted without scoring the rest
_AROUND = 1  # words before and after a variant that CTC scores with it; 2 give the same results

_Stretch = tuple[int, int, int, tuple[int, ...]]  # row, first frame, the frame after the last, and tokens there


class Earlier(NamedTuple):
    """Results of earlier searches in an utterance that has not ended."""

    tokens: Sequence[int] = ()  # of the words before the prefix's first frame
    unsure_frames: int = 0  # frames at the end where words may still change; phrases are spotted before them only
    scores: Mapping[Any, Any] = {}  # of detours, from `HotwordState`; a detour among the same words keeps its score


class _Words(NamedTuple):
    """A hypothesis as words."""

    row: int  # of the batch
    spelled: list[int]  # the hypothesis
    texts: list[str]
    tokens: list[tuple[int, int]]  # of each word
    spans: list[tuple[int, int]]  # first frame of each word, and the frame after its last
    frames: int  # of the utterance
    listed: list[tuple[int, int, float]]  # phrases of the list among the words, and their worth

    @classmethod
    def of(cls, row: int, tokens: list[int], spans: Sequence[tuple[int, int]], frames: int, spotter: Spotter) -> _Words:
        """The words of tokens, with the frames `spans` of each token."""
        words = spotter.tokenizer.words(tokens)
        texts = [text for text, _, _ in words]
        listed = []
        for start in range(len(texts)):
            for end in range(start + 1, min(start + spotter.words, len(texts)) + 1):
                said = " ".join(texts[start:end])
                if known := spotter.spellings.get(said) or spotter.spellings.get(said.removesuffix("'s")):
                    listed.append((start, end, known.worth))
        heard = [(spans[first][0], spans[after - 1][1]) for _, first, after in words]
        return cls(row, tokens, texts, [(first, after) for _, first, after in words], heard, frames, listed)

    def token(self, word: int) -> int:
        """The number of tokens before a word."""
        return self.tokens[word][0] if word < len(self.tokens) else self.tokens[-1][1]

    def between(self, start: int, end: int) -> list[int]:
        """The tokens of some words."""
        return self.spelled[self.token(start) : self.token(end)]


class _Variant(NamedTuple):
    """A phrase in place of words."""

    words: _Words
    spot: Spot
    start: int  # of the words replaced
    end: int
    tokens: list[int]
    stake: float  # its worth minus that of the listed phrases whose words it replaces
    gain: float = 0.0  # the stake plus the weighted change of CTC's score

    @property
    def detour(self) -> Detour:
        """The variant as a detour, to be scored by the other scorers."""
        least = _STAKE_SHARE * max(0.0, self.stake) - _GAIN_SHARE * self.gain
        first, after = self.words.token(self.start), self.words.token(self.end)
        return Detour(self.words.row, first, after, self.tokens, least, _CLEAR - self.gain)


def place_hotwords(
    model: Model,
    encoded: Encoded,
    found: list[list[Hypothesis]],
    trace: Trace,
    lists: Sequence[Spotter | None],
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    prefix: Prefix | None = None,
    earlier: Sequence[Earlier] = (),
) -> list[list[Hypothesis]]:
    """Put listed phrases into the best hypotheses of a search.

    Args:
        model: in evaluation mode.
        encoded: of B utterances.
        found: the n-best of each, best first.
        trace: of the search that found them.
        lists: of each utterance, None where it has none; empty: none has any.
        config: weights of the search; `hotword_weight` and `hotword_margin`.
        lm: of the search.
        prefix: of the search.
        earlier: results of earlier searches in each utterance; empty: there are none.

    Returns:
        The n-best with the new hypothesis first, where there is one; its score includes the worth of its phrases. The
        trace gets the state of the hotwords.
    """
    return finish(place_hotwords_steps(model, encoded, found, trace, lists, config, lm, prefix, earlier))


@torch.inference_mode()
def place_hotwords_steps(
    model: Model,
    encoded: Encoded,
    found: list[list[Hypothesis]],
    trace: Trace,
    lists: Sequence[Spotter | None],
    config: SearchConfig,
    lm: TokenPredictor | None = None,
    prefix: Prefix | None = None,
    earlier: Sequence[Earlier] = (),
) -> Steps[list[list[Hypothesis]]]:
    """As `place_hotwords`; yields after spotting the phrases, and after every token."""
    listed = {row: one for row, (one, best) in enumerate(zip(lists, found, strict=False)) if one and best[0].tokens}
    if not listed or config.hotword_weight == 0:
        return found
    before = dict(enumerate(earlier)) if earlier else dict.fromkeys(listed, Earlier())
    log_probs, counts = _heard(model, encoded, trace, prefix)
    some: list[_Variant] = []
    for row, spotter in listed.items():
        tokens, frames = found[row][0].tokens, log_probs[row, : counts[row]]
        if (spans := align(frames, tokens)) is None:
            continue
        sure = frames[: max(0, len(frames) - before[row].unsure_frames)]
        trace.spans[row] = spans
        trace.hotwords[row] = HotwordState(waiting=spans[-1][1] > len(sure))
        if spots := spotter.spots(sure, before[row].tokens, config.hotword_weight, config.hotword_margin):
            words = _Words.of(row, tokens, spans, len(frames), spotter)
            if words.spans[0][1] <= len(sure):
                some += _replacements(words, spots, spotter, config.hotword_weight)
    if not (variants := _likely(some, log_probs, config)):
        return found

    yield
    scored = yield from _scores(model, encoded, config, lm, trace, variants, before)
    after = list(found)
    for row, pairs in groupby(zip(variants, scored, strict=True), lambda pair: pair[0].words.row):
        after[row] = _changed(found[row], list(pairs), config.nbest)
        if after[row] is not found[row]:
            del trace.spans[row]
    return after


def _heard(model: Model, encoded: Encoded, trace: Trace, prefix: Prefix | None) -> tuple[Tensor, list[int]]:
    """Log-probabilities `(B, T, V)` of the CTC head from the prefix's first frame on, on the CPU, and their lengths."""
    log_probs, lengths = trace.ctc, encoded.encoder_out_lengths
    first = prefix.first_frame if prefix else torch.zeros_like(lengths)
    if log_probs is None:
        log_probs = from_frame(model.ctc_log_probs(encoded.encoder_out), first)
    return log_probs.float().cpu(), (lengths - first).clamp(min=0).tolist()


def _scores(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None,
    trace: Trace,
    variants: Sequence[_Variant],
    before: Mapping[int, Earlier],
) -> Steps[list[Scored | None]]:
    """Scores of variants, from an earlier search where it has them; all are kept in the trace for the next one."""
    detours, keys = [v.detour for v in variants], []
    for v, d in zip(variants, detours, strict=True):
        tokens = v.words.spelled
        until = (*before[d.row].tokens, *tokens[: d.start])
        keys.append((until, tuple(tokens[d.start : d.end]), tuple(tokens[d.end : d.end + AFTER]), tuple(d.tokens)))
    new = [i for i, (d, key) in enumerate(zip(detours, keys, strict=True)) if key not in before[d.row].scores]
    known = {detours[i].row: variants[i].words.spelled for i in new}
    some = [detours[i] for i in new]
    scored = (yield from score_detours(model, encoded, config, lm, trace, known, some)) if some else []

    fresh = dict(zip(new, scored, strict=True))
    scores: dict[int, dict[Any, Scored | None]] = {d.row: {} for d in detours}
    for i, (d, key) in enumerate(zip(detours, keys, strict=True)):
        scores[d.row][key] = fresh[i] if i in fresh else before[d.row].scores[key]
    for row, of_row in scores.items():
        trace.hotwords[row] = trace.hotwords[row]._replace(scores=of_row)
    return [scores[d.row][key] for d, key in zip(detours, keys, strict=True)]


def _replacements(words: _Words, spots: Sequence[Spot], spotter: Spotter, weight: float) -> list[_Variant]:
    """The replacements of words by spots."""
    some = []
    for spot in spots:
        for start, end in _spans(spot, words):
            lost = sum(worth for first, after, worth in words.listed if first < end and start < after)
            stake, replaced = weight * (spot.spelling.worth - lost), words.between(start, end)
            ways = _spelled(spot, words.texts[start:end], spotter.tokenizer)
            some += [_Variant(words, spot, start, end, spelled, stake) for spelled in ways if spelled != replaced]
    return some


def _likely(some: Sequence[_Variant], log_probs: Tensor, config: SearchConfig) -> list[_Variant]:
    """The variants of each spot that are likeliest by CTC's `log_probs` `(B, T, V)`, if likely enough."""
    likely: dict[tuple[int, Spot], list[tuple[float, _Variant]]] = defaultdict(list)
    for variant, change in zip(some, _ctc_changes(some, log_probs) if some else [], strict=True):
        if variant.stake * config.hotword_margin + change > 0:
            gain = variant.stake + config.ctc_weight * change
            likely[variant.words.row, variant.spot].append((change, variant._replace(gain=gain)))
    best = (v for pairs in likely.values() for _, v in sorted(pairs, key=lambda pair: -pair[0])[:_VARIANTS])
    return [variant for variant in best if variant.gain > 0]


def _spans(spot: Spot, words: _Words) -> list[tuple[int, int]]:
    """Ranges of words that a spot can take the place of: those within it, one more, one less."""
    centres = [(first + after) / 2 for first, after in words.spans]
    start = sum(centre < spot.first_frame - 1 for centre in centres)
    end = max(start, sum(centre <= spot.after_last + 1 for centre in centres))
    if " ".join(words.texts[start:end]).removesuffix("'s") == spot.spelling.said:
        return []
    if start == end:
        middle = (spot.first_frame + spot.after_last) / 2
        start = end = sum(centre < middle for centre in centres)
    some = {(start, end), (start - 1, end), (start, end + 1), (start + 1, end), (start, end - 1)}
    first = 0 if spot.spelling.continues else None
    return sorted((a, b) for a, b in some if 0 <= a < b <= len(centres) and first in (None, a))


def _spelled(spot: Spot, replaced: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of a spot, and those with 's after it where the words that it replaces end in an s."""
    plain = list(spot.spelling.tokens)
    if replaced and replaced[-1].endswith("s"):
        possessive = tokenizer.encode(f"{spot.spelling.said}'s")
        return [plain, possessive] if UNKNOWN not in possessive else [plain]
    return [plain]


def _ctc_changes(variants: Sequence[_Variant], log_probs: Tensor) -> list[float]:
    """Changes of the CTC log-probability by variants, with a few words around them; `log_probs` are `(B, T, V)`."""
    texts: dict[_Stretch, int] = {}  # each once
    pairs = []
    for v in variants:
        words = v.words
        first, after = max(0, v.start - _AROUND), min(len(words.texts), v.end + _AROUND)
        begin = words.spans[first - 1][1] if first else 0
        end = words.spans[after][0] if after < len(words.texts) else words.frames
        both = [*words.between(first, v.start), *v.tokens, *words.between(v.end, after)], words.between(first, after)
        pairs.append([texts.setdefault((words.row, begin, end, tuple(text)), len(texts)) for text in both])
    scores = _ctc_scores(list(texts), log_probs)
    return [scores[changed] - scores[plain] for changed, plain in pairs]


def _ctc_scores(texts: Sequence[_Stretch], log_probs: Tensor) -> list[float]:
    """Log-probabilities by CTC of tokens, each in its stretch of `log_probs` `(B, T, V)`."""
    *places, tokens = zip(*texts, strict=True)
    rows, begins, ends = torch.tensor(places)
    index = torch.arange(int((ends - begins).max()))[:, None] + begins
    # Only the vocabulary columns of each text's own tokens, numbered by their first place in it.
    longest = max(map(len, tokens))
    columns = torch.tensor([[BLANK, *text, *[BLANK] * (longest - len(text))] for text in tokens])
    spread = log_probs[rows[:, None], index.clamp(max=log_probs.shape[1] - 1)[..., None], columns]
    targets = torch.tensor([text.index(token) + 1 for text in tokens for token in text])
    lengths = torch.tensor([len(text) for text in tokens])
    losses = torch.nn.functional.ctc_loss(spread, targets, ends - begins, lengths, blank=0, reduction="none")
    return (-losses).tolist()


def _changed(
    found: list[Hypothesis], variants: Sequence[tuple[_Variant, Scored | None]], nbest: int
) -> list[Hypothesis]:
    """The n-best with the variants that raise the score of the best, as far as they do not overlap."""
    gains = [(v.gain + scored.gain, v, scored) for v, scored in variants if scored and v.gain + scored.gain > 0]
    chosen: list[tuple[float, _Variant, Scored]] = []
    for one in sorted(gains, key=lambda triple: -triple[0]):
        if not any(_overlap(one[1], other) for _, other, _ in chosen):
            chosen.append(one)
    if not chosen:
        return found
    tokens, token_scores = list(found[0].tokens), list(found[0].token_scores)
    for _, v, scored in sorted(chosen, key=lambda triple: -triple[1].start):
        place = slice(v.words.token(v.start), v.words.token(v.end))
        tokens[place], token_scores[place] = v.tokens, scored.token_scores
    best = replace(
        found[0],
        tokens=tokens,
        token_scores=token_scores,
        score=found[0].score + sum(gain for gain, _, _ in chosen),
    )
    return [best, *found][:nbest]


def _overlap(one: _Variant, other: _Variant) -> bool:
    """Whether two variants take the same words, or come from the same frames."""
    (_, first, after), (_, begin, end) = one.spot, other.spot
    return (one.start < other.end and other.start < one.end) or (first < end and begin < after)
