"""Word times: CTC forced alignment, refined by the level of the audio between words.

Forced alignment uses torchaudio's kernel. If torchaudio cannot be loaded, a Viterbi search in plain PyTorch finds the
same path, and one logged line names both versions and the remedy.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr.config import ModelConfig
from asr.search.hypothesis import Hypothesis
from asr.text.tokenizer import BLANK, Tokenizer

__all__ = ["Sound", "TimedWord", "align", "time_words", "viterbi"]

_LOG = logging.getLogger(__name__)

# A pause between words: at least this long, and this far below the louder parts of the words around it.
_MIN_PAUSE_SECONDS = 0.08
_PAUSE_DECIBELS = 20.0

# Without a pause, the boundary lies this fraction of the way from a word's last token to the next word's first, because
# CTC emits a token late. These numbers were fitted on three voices of festival and espeak-ng, whose word boundaries are
# known; recipes/benchmark/word_times.py measures them on those, on voices held out, and on real speech.
_BOUNDARY = 0.6
_LEAD_SECONDS, _MAX_LEAD_SECONDS = 0.04, 0.3  # from a word's start to its first token
_TAIL_SECONDS, _MAX_TAIL_SECONDS = 0.08, 0.3  # from a word's last token to its end

_CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def align(log_probs: Tensor, tokens: list[int]) -> list[tuple[int, int]] | None:
    """Forced alignment: the most likely CTC path that spells `tokens`.

    Args:
        log_probs: `(T, V)` of one utterance.
        tokens: the text, without blanks.

    Returns:
        For each token its first frame and the frame after its last, or None if there are too few frames for the tokens.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    if not tokens or len(tokens) + repeats > log_probs.shape[0]:
        return None

    path = _path_finder()(log_probs.float(), tokens)
    spans: list[tuple[int, int]] = []
    previous = BLANK
    for frame, token in enumerate(path):
        if token != BLANK and token != previous:
            spans.append((frame, frame + 1))
        elif token != BLANK:
            spans[-1] = (spans[-1][0], frame + 1)
        previous = token
    return spans


def viterbi(log_probs: Tensor, tokens: list[int]) -> list[int]:
    """The most likely CTC path `T` frames long that spells `tokens`, in plain PyTorch.

    States are the tokens with a blank before, between and after them; each frame updates all states at once.

    Args:
        log_probs: `(T, V)` float32 of one utterance, with enough frames for the tokens.
        tokens: the text, at least one token, without blanks.
    """
    log_probs = log_probs.cpu()
    frames, states = log_probs.shape[0], 2 * len(tokens) + 1
    labels = torch.full((states,), BLANK)
    labels[1::2] = torch.tensor(tokens)
    emissions = log_probs[:, labels]  # (T, states)

    # A path may skip the blank between two tokens that differ.
    skippable = torch.zeros(states, dtype=torch.bool)
    skippable[3::2] = labels[3::2] != labels[1:-2:2]

    # scores[s + 2] is the best path's score that ends in state s; the first two entries are padding.
    scores = torch.full((states + 2,), -torch.inf)
    scores[2:4] = emissions[0, :2]
    skip_penalty = torch.zeros(states).masked_fill_(~skippable, -torch.inf)
    steps = torch.zeros(frames, states, dtype=torch.long)  # how many states back the best predecessor lies
    for t in range(1, frames):
        candidates = torch.stack([scores[2:], scores[1:-1], scores[:-2] + skip_penalty])
        best, steps[t] = candidates.max(dim=0)
        scores[2:] = best + emissions[t]

    # The path ends in the last token or in the blank after it.
    state = states - 1 if scores[-1] > scores[-2] else states - 2
    backwards = [state]
    step_back = steps.tolist()
    for t in range(frames - 1, 0, -1):
        state -= step_back[t][state]
        backwards.append(state)
    label_list = labels.tolist()
    return [label_list[state] for state in reversed(backwards)]


@functools.cache
def _path_finder() -> Callable[[Tensor, list[int]], list[int]]:
    """Find torchaudio's kernel, or `viterbi` with one line in the log if torchaudio cannot be loaded."""
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        _LOG.warning("%s", _explanation(error))
        return viterbi
    return functools.partial(_torchaudio_path, forced_align)


def _torchaudio_path(forced_align: Callable[..., Any], log_probs: Tensor, tokens: list[int]) -> list[int]:
    targets = torch.tensor([tokens], dtype=torch.int32, device=log_probs.device)
    path, _ = forced_align(log_probs[None].contiguous(), targets, blank=BLANK)
    found: list[int] = path[0].tolist()
    return found


def _explanation(error: Exception) -> str:
    """One line: both versions, what happens instead, and the remedy."""
    installed = f"torch {torch.__version__}"
    if isinstance(error, ModuleNotFoundError):
        problem, remedy = f"torchaudio is not installed beside {installed}", "pip install torchaudio"
    else:
        problem = f"torchaudio {importlib.metadata.version('torchaudio')} cannot be loaded beside {installed}"
        remedy = "pip install --upgrade --force-reinstall torch torchaudio"
    if "+cpu" in torch.__version__:  # PyPI's torchaudio for Linux is built for CUDA
        remedy += f" --index-url {_CPU_WHEELS}"
    return f"{problem}: word times take longer to compute; remedy: {remedy}"


@dataclass(frozen=True)
class TimedWord:
    """A word of a hypothesis; frames and seconds count from the start of the log-probabilities it was aligned with."""

    text: str
    tokens: int  # number of the hypothesis's tokens up to and including this word
    first_frame: int  # of the CTC path's tokens
    last_frame: int  # the frame after the last of them
    start_seconds: float
    end_seconds: float
    confidence: float
    attention_frame: int = 0  # last attention peak of the word's tokens; 0 if peaks were not given
    aligned: bool = True  # False: too few frames for the tokens, so that times are an even spread


@dataclass(frozen=True)
class Sound:
    """CTC probabilities and levels of a stretch of audio, for timing its words; made by `Sound.of`."""

    log_probs: Tensor  # (T, V) of the CTC head, on the CPU
    decibels: Sequence[float]  # level of each feature frame; may be longer or shorter than the T frames
    frame_seconds: float  # of log_probs
    hop_seconds: float  # of decibels
    centre_seconds: float  # from the start of a feature frame to its middle
    seconds: float  # length; no word ends later

    @classmethod
    def of(cls, config: ModelConfig, log_probs: Tensor, decibels: Tensor, seconds: float) -> Sound:
        """From the model's config, `log_probs` `(T, V)`, `decibels` `(t,)` by `LogMel.level`, and the length."""
        features = config.features
        return cls(
            log_probs,
            decibels.tolist(),
            config.frame_seconds,
            features.hop_ms / 1000,
            features.first_centre_seconds,
            seconds,
        )

    def loudest(self, start: float, end: float) -> float:
        """The highest level between two times; that of the nearest frame if no frame's middle lies between them."""
        first = min(self._index(start), max(0, len(self.decibels) - 1))
        return max(self.decibels[first : max(self._index(end), first + 1)], default=-math.inf)

    def pause(self, start: float, end: float, level: float) -> tuple[float, float] | None:
        """The longest stretch between two times that is below `level`, if it is long enough for a pause."""
        first, longest, run = self._index(start), (0, 0), 0
        for i, decibels in enumerate(self.decibels[first : self._index(end)], start=first):
            run = run + 1 if decibels < level else 0
            longest = max(longest, (run, i + 1))
        length, after = longest
        if length * self.hop_seconds < _MIN_PAUSE_SECONDS:
            return None
        begin, stop = (i * self.hop_seconds + self.centre_seconds for i in (after - length, after))
        return max(start, begin), min(max(stop, begin), end)

    def _index(self, seconds: float) -> int:
        """The first feature frame whose middle is not before a time."""
        return max(0, math.ceil((seconds - self.centre_seconds) / self.hop_seconds - 1e-6))


def time_words(
    tokenizer: Tokenizer,
    hypothesis: Hypothesis,
    sound: Sound,
    start_frame: int = 0,
    peaks: Sequence[int] | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
) -> list[TimedWord]:
    """The words of a hypothesis with their times and confidences.

    CTC gives the frames of a word's tokens, which cover only a part of the word. Between the frames of two words lies
    their boundary: both ends of a pause if the level falls for long enough, one point otherwise. Confidence is the
    decoder's: the geometric mean of the probabilities of a word's tokens.

    Args:
        tokenizer: the model's.
        hypothesis: all words from `start_frame` on.
        sound: the same audio.
        start_frame: end of earlier words; 0 if there are none.
        peaks: frame of the attention peak of each token, to be stored with the words.
        spans: by `align` of the log-probabilities from `start_frame` on; None: not known yet.
    """
    tokens = hypothesis.tokens
    spans = spans or align(sound.log_probs[start_frame:], tokens)
    aligned = spans is not None
    if spans is None:
        frames, count = len(sound.log_probs) - start_frame, len(tokens)
        spans = [(i * frames // count, (i + 1) * frames // count) for i in range(count)]

    pieces = tokenizer.words(tokens)
    heard = [(start_frame + spans[first][0], start_frame + spans[after - 1][1]) for _, first, after in pieces]
    times = _word_times(sound, heard, start_frame) if aligned else [_even(sound, span) for span in heard]
    words = []
    for (text, first, after), span, (start, end) in zip(pieces, heard, times, strict=True):
        confidence = min(1.0, math.exp(sum(hypothesis.token_scores[first:after]) / (after - first)))
        peak = max(peaks[first:after]) if peaks else 0
        words.append(TimedWord(text, after, *span, start, end, confidence, peak, aligned))
    return words


def _even(sound: Sound, span: tuple[int, int]) -> tuple[float, float]:
    start, end = (min(frame * sound.frame_seconds, sound.seconds) for frame in span)
    return start, end


def _word_times(sound: Sound, heard: Sequence[tuple[int, int]], start_frame: int) -> list[tuple[float, float]]:
    """Start and end in seconds of words, given the frames of their tokens, in order; times do not overlap."""
    cores = [(a * sound.frame_seconds, min(b * sound.frame_seconds, sound.seconds)) for a, b in heard]
    levels = [sound.loudest(a - sound.frame_seconds, b + sound.frame_seconds) - _PAUSE_DECIBELS for a, b in cores]
    if not cores:
        return []

    # The start of the first word: after the words before it, or after silence.
    (first, _), known = cores[0], start_frame * sound.frame_seconds
    before = known if start_frame else max(0.0, first - _MAX_LEAD_SECONDS)
    pause = sound.pause(before, first, levels[0])
    boundary = known + _BOUNDARY * (first - known) if start_frame else first - _LEAD_SECONDS
    starts = [pause[1] if pause else max(boundary, first - _MAX_LEAD_SECONDS, 0.0)]

    # Between two words.
    ends = []
    for (_, end), (start, _), level in zip(cores, cores[1:], map(min, levels, levels[1:]), strict=False):
        boundary = end + _BOUNDARY * (start - end)
        pause = sound.pause(end, start, level)
        ends.append(pause[0] if pause else min(boundary, end + _MAX_TAIL_SECONDS))
        starts.append(pause[1] if pause else max(boundary, start - _MAX_LEAD_SECONDS))

    # The end of the last word: before silence.
    last = cores[-1][1]
    pause = sound.pause(last, min(last + _MAX_TAIL_SECONDS + _MIN_PAUSE_SECONDS, sound.seconds), levels[-1])
    ends.append(pause[0] if pause else min(last + _TAIL_SECONDS, sound.seconds))
    return list(zip(starts, ends, strict=True))
