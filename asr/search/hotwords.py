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
_AROUND = 1  # words before and after a variant that CTC scores with it: with 2 it finds the same


class Earlier(NamedTuple):
    """Results of earlier searches in an utterance that has not ended."""

    tokens: Sequence[int] = ()  # of the words before the prefix's first frame
    unsure_frames: int = 0  # frames at the end where words may still change; phrases are spotted before them only
    scores: Mapping[Any, Any] = {}  # of detours, from `HotwordState`; a detour among the same words keeps its score


class _Words(NamedTuple):
    """A hypothesis as words."""

    texts: list[str]
    tokens: list[tuple[int, int]]  # of each word
    spans: list[tuple[int, int]]  # first frame of each word, and the frame after its last
    listed: list[tuple[int, int, float]]  # phrases of the list among the words, and their worth

    @classmethod
    def of(cls, tokens: list[int], log_probs: Tensor, spotter: Spotter) -> _Words | None:
        """The words of tokens, with their places in `log_probs` `(T, V)`; None where these are too short for them."""
        spans = align(log_probs, tokens)
        if spans is None:
            return None
        words = spotter.tokenizer.words(tokens)
        texts = [text for text, _, _ in words]
        listed = []
        for start in range(len(texts)):
            for end in range(start + 1, min(start + spotter.words, len(texts)) + 1):
                said = " ".join(texts[start:end])
                if known := spotter.spellings.get(said) or spotter.spellings.get(said.removesuffix("'s")):
                    listed.append((start, end, known.worth))
        frames = [(spans[first][0], spans[after - 1][1]) for _, first, after in words]
        return cls(texts, [(first, after) for _, first, after in words], frames, listed)

    def token(self, word: int) -> int:
        """The number of tokens before a word."""
        return self.tokens[word][0] if word < len(self.tokens) else self.tokens[-1][1]


class _Variant(NamedTuple):
    """A phrase in place of words."""

    spot: Spot
    start: int  # of the words replaced
    end: int
    tokens: list[int]
    stake: float  # its worth, less that of the phrases of the list whose words it takes
    gain: float = 0.0  # the stake, and the change of CTC's score

    @property
    def least(self) -> float:
        """The gain by the other scorers below which it is dropped."""
        return _STAKE_SHARE * max(0.0, self.stake) - _GAIN_SHARE * self.gain

    @property
    def enough(self) -> float:
        """The gain by the other scorers with which it has won."""
        return _CLEAR - self.gain


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
    """Put the phrases of lists into the best hypotheses of a search.

    Args:
        model: in evaluation mode.
        encoded: of B utterances.
        found: the n-best of each, best first.
        trace: of the search that has found them.
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
    """As `place_hotwords`; yields after the phrases were spotted, and after every token."""
    rows = [row for row, (one, best) in enumerate(zip(lists, found, strict=False)) if one and best[0].tokens]
    if not rows or config.hotword_weight == 0:
        return found
    before = dict(enumerate(earlier)) if earlier else dict.fromkeys(rows, Earlier())
    texts, variants = {}, {}
    for row, frames in _heard(model, encoded, trace, prefix, rows).items():
        words, some = _replacements(found[row][0].tokens, frames, lists[row], before[row], config)
        unsure = words is not None and words.spans[-1][1] > len(frames) - before[row].unsure_frames
        trace.hotwords[row] = HotwordState(waiting=unsure)
        if words and some:
            texts[row], variants[row] = words, some
    if not variants:
        return found

    detours = [
        Detour(row, texts[row].token(one.start), texts[row].token(one.end), one.tokens, one.least, one.enough)
        for row, some in variants.items()
        for one in some
    ]
    best = {row: found[row][0].tokens for row in variants}
    yield
    scores = yield from _scores(model, encoded, config, lm, trace, best, detours, before)
    scored, after = iter(scores), list(found)
    for row, some in variants.items():
        pairs = [(one, next(scored)) for one in some]
        after[row] = _changed(found[row], texts[row], pairs, config.nbest)
    return after


def _heard(
    model: Model, encoded: Encoded, trace: Trace, prefix: Prefix | None, rows: Sequence[int]
) -> dict[int, Tensor]:
    """Log-probabilities `(T, V)` of the CTC head for some utterances, on the CPU, from the prefix's first frame on."""
    log_probs, lengths = trace.ctc, encoded.encoder_out_lengths
    first = prefix.first_frame if prefix else torch.zeros_like(lengths)
    if log_probs is None:
        log_probs = from_frame(model.ctc_log_probs(encoded.encoder_out), first)
    log_probs, counts = log_probs.float().cpu(), (lengths - first).clamp(min=0).tolist()
    return {row: log_probs[row, : counts[row]] for row in rows}


def _replacements(
    tokens: list[int], frames: Tensor, spotter: Spotter | None, before: Earlier, config: SearchConfig
) -> tuple[_Words | None, list[_Variant]]:
    """The words of tokens, and the replacements of some of them by phrases spotted in `frames` `(T, V)`."""
    words = _Words.of(tokens, frames, spotter) if spotter else None
    sure = frames[: max(0, len(frames) - before.unsure_frames)]
    if spotter is None or words is None or words.spans[0][1] > len(sure):
        return words, []
    spots = spotter.spots(sure, before.tokens, config.hotword_weight, config.hotword_margin)
    return words, _variants(tokens, words, spots, frames, spotter, config)


def _scores(
    model: Model,
    encoded: Encoded,
    config: SearchConfig,
    lm: TokenPredictor | None,
    trace: Trace,
    best: Mapping[int, list[int]],
    detours: Sequence[Detour],
    before: Mapping[int, Earlier],
) -> Steps[list[Scored | None]]:
    """Scores of detours, from an earlier search where it has them; all are kept in the trace for the next one."""
    keys = []
    for d in detours:
        tokens = best[d.row]
        until = (*before[d.row].tokens, *tokens[: d.start])
        keys.append((until, tuple(tokens[d.start : d.end]), tuple(tokens[d.end : d.end + AFTER]), tuple(d.tokens)))
    new = [i for i, (d, key) in enumerate(zip(detours, keys, strict=True)) if key not in before[d.row].scores]
    some = [detours[i] for i in new]
    rows = {d.row: best[d.row] for d in some}
    scored = (yield from score_detours(model, encoded, config, lm, trace, rows, some)) if some else []

    fresh = dict(zip(new, scored, strict=True))
    scores: dict[int, dict[Any, Scored | None]] = {d.row: {} for d in detours}
    for i, (d, key) in enumerate(zip(detours, keys, strict=True)):
        scores[d.row][key] = fresh[i] if i in fresh else before[d.row].scores[key]
    for row, of_row in scores.items():
        trace.hotwords[row] = trace.hotwords[row]._replace(scores=of_row)
    return [scores[d.row][key] for d, key in zip(detours, keys, strict=True)]


def _variants(
    tokens: list[int], words: _Words, spots: Sequence[Spot], frames: Tensor, spotter: Spotter, config: SearchConfig
) -> list[_Variant]:
    """The replacements of words by spots that CTC finds likely enough."""
    weight, some = config.hotword_weight, []
    for spot in spots:
        for start, end in _spans(spot, words):
            lost = sum(worth for first, after, worth in words.listed if first < end and start < after)
            stake = weight * (spot.spelling.worth - lost)
            replaced = tokens[words.token(start) : words.token(end)]
            ways = _spelled(spot, words.texts[start:end], spotter.tokenizer)
            some += [_Variant(spot, start, end, spelled, stake) for spelled in ways if spelled != replaced]
    if not some:
        return []

    # Of each spot the likeliest by CTC.
    likely: dict[Spot, list[tuple[float, _Variant]]] = defaultdict(list)
    for variant, change in zip(some, _ctc_changes(tokens, words, some, frames), strict=True):
        if variant.stake * config.hotword_margin + change > 0:
            gain = variant.stake + config.ctc_weight * change
            likely[variant.spot].append((change, variant._replace(gain=gain)))
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


def _ctc_changes(tokens: list[int], words: _Words, variants: Sequence[_Variant], frames: Tensor) -> list[float]:
    """Changes of the CTC log-probability by variants, with a few words around them; `frames` are `(T, V)`."""
    texts: dict[tuple[tuple[int, ...], int, int], int] = {}  # each once, with its frames
    pairs = []
    for v in variants:
        first, after = max(0, v.start - _AROUND), min(len(words.texts), v.end + _AROUND)
        begin = words.spans[first - 1][1] if first else 0
        end = words.spans[after][0] if after < len(words.texts) else len(frames)
        known = tokens[words.token(first) : words.token(after)]
        here, there = (words.token(word) - words.token(first) for word in (v.start, v.end))
        both = (*known[:here], *v.tokens, *known[there:]), tuple(known)
        pairs.append([texts.setdefault((text, begin, end), len(texts)) for text in both])
    scores = _ctc_scores(list(texts), frames)
    return [scores[changed] - scores[plain] for changed, plain in pairs]


def _ctc_scores(texts: Sequence[tuple[tuple[int, ...], int, int]], frames: Tensor) -> list[float]:
    """Log-probabilities by CTC of tokens, each in a range of `frames` `(T, V)`."""
    tokens, *spans = zip(*texts, strict=True)
    begins, ends = torch.tensor(spans)
    index = torch.arange(int((ends - begins).max()))[:, None] + begins
    # Of the vocabulary only the tokens of each text, numbered by their first place in it.
    longest = max(map(len, tokens))
    columns = torch.tensor([[BLANK, *text, *[BLANK] * (longest - len(text))] for text in tokens])
    spread = frames[index.clamp(max=len(frames) - 1)[..., None], columns]
    targets = torch.tensor([text.index(token) + 1 for text in tokens for token in text])
    lengths = torch.tensor([len(text) for text in tokens])
    losses = torch.nn.functional.ctc_loss(spread, targets, ends - begins, lengths, blank=0, reduction="none")
    return (-losses).tolist()


def _changed(
    found: list[Hypothesis], words: _Words, variants: Sequence[tuple[_Variant, Scored | None]], nbest: int
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
        place = slice(words.token(v.start), words.token(v.end))
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
