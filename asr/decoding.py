"""One batch of waveforms to segments, in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from asr.audio import SAMPLE_RATE
from asr.config import SearchConfig
from asr.errors import SpellstreamError
from asr.model.las import Encoded, Model
from asr.model.lm import TokenPredictor
from asr.search import Hypothesis, Spotter, search_steps
from asr.search.alignment import Sound, time_words
from asr.steps import Steps
from asr.text.tokenizer import Tokenizer
from asr.transcript import Alternative, Segment, Word

__all__ = ["decode_each", "decode_steps"]

# Rows encoded together on a CPU: more rows exceed its caches (48 recordings took 5.8 ms per second of audio with 4
# rows, 6.5 with 8, 8.4 with 16), and a step should be short.
_CPU_ROWS, _CPU_SECONDS = 4, 30.0


@torch.inference_mode()
def decode_steps(
    model: Model,
    tokenizer: Tokenizer,
    waveforms: Sequence[Tensor],
    config: SearchConfig,
    lm: TokenPredictor | None,
    spotter: Spotter | None,
    word_timestamps: bool,
) -> Steps[list[Segment]]:
    """Encode a batch group by group, then search it token by token.

    Args:
        model: in evaluation mode, on the device that does the work.
        tokenizer: of the model.
        waveforms: `(samples,)` at 16 kHz on the CPU, each at most as long as a segment (20 s).
        config: beam size and weights.
        lm: language model over the same tokens, on the same device; None: none.
        spotter: finds hotwords; None: none.
        word_timestamps: also find when each word was said.

    Returns:
        A segment for each waveform, starting at 0 s; its text is empty if nothing was recognised.
    """
    groups, levels = [], []
    for group in _groups(waveforms, model.ctc.weight.device):
        encoded, level = _encode(model, group)
        groups.append(encoded)
        levels += level
        yield
    encoded = _joined(groups)
    found = yield from search_steps(model, encoded, config, lm, [spotter] * len(waveforms))

    seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
    sounds: Sequence[Sound | None] = [None] * len(found)
    if word_timestamps:
        lengths: list[int] = encoded.encoder_out_lengths.tolist()
        log_probs = model.ctc_log_probs(encoded.encoder_out).cpu()
        rows = zip(log_probs, levels, lengths, seconds, strict=True)
        sounds = [Sound.of(model.config, p[:n], level, s) for p, level, n, s in rows]
    return [_segment(tokenizer, *row, config.nbest) for row in zip(found, sounds, seconds, strict=True)]


def decode_each(
    decode: Callable[[Sequence[Tensor]], Steps[list[Segment]]], waveforms: Sequence[Tensor]
) -> Steps[list[Segment | Exception]]:
    """Decode a batch; if it fails (out of memory), decode its items singly, each failure as an exception.

    Raises:
        SpellstreamError: settings that do not fit the model, and are wrong for every item.
    """
    try:
        return list((yield from decode(waveforms)))
    except SpellstreamError:
        raise
    except Exception as error:
        if len(waveforms) == 1:
            return [error]
    each: list[Segment | Exception] = []
    for waveform in waveforms:
        each += yield from decode_each(decode, [waveform])
    return each


def _groups(waveforms: Sequence[Tensor], device: torch.device) -> Iterator[list[Tensor]]:
    """Neighbouring waveforms to encode together: all on a GPU, a few on a CPU."""
    if device.type != "cpu":
        yield list(waveforms)
        return
    group: list[Tensor] = []
    for waveform in waveforms:
        padded = (len(group) + 1) * max(map(len, [*group, waveform]))
        if group and (len(group) == _CPU_ROWS or padded > _CPU_SECONDS * SAMPLE_RATE):
            yield group
            group = []
        group.append(waveform)
    yield group


def _encode(model: Model, waveforms: Sequence[Tensor]) -> tuple[Encoded, list[Tensor]]:
    """The encoder output of a group, and the level of each row."""
    padded = pad_sequence(list(waveforms), batch_first=True)
    samples = torch.tensor([len(w) for w in waveforms])
    padded = model.levelled(padded, samples)
    device = model.ctc.weight.device
    if device.type == "cuda":
        padded = padded.pin_memory().to(device, non_blocking=True)
    features, lengths = model.features(padded, samples.to(device))
    levels = model.features.level(features).cpu()
    rows = zip(levels, lengths.tolist(), strict=True)
    return model.encode_features(features, lengths), [level[:frames] for level, frames in rows]


def _joined(groups: Sequence[Encoded]) -> Encoded:
    """Several groups as one batch, padded to the longest."""
    frames = max(encoded.encoder_out.shape[1] for encoded in groups)
    padded = [pad(outs, (0, 0, 0, frames - outs.shape[1])) for outs, _ in groups]
    return Encoded(torch.cat(padded), torch.cat([lengths for _, lengths in groups]))


def _segment(tokenizer: Tokenizer, found: list[Hypothesis], sound: Sound | None, seconds: float, nbest: int) -> Segment:
    best = found[0]
    words: tuple[Word, ...] = ()
    if sound is not None:
        timed = time_words(tokenizer, best, sound)
        words = tuple(Word(w.text, w.start_seconds, w.end_seconds, w.confidence) for w in timed)
    alternatives = (Alternative(tokenizer.decode(h.tokens), h.score) for h in found)
    return Segment(
        tokenizer.decode(best.tokens), 0.0, seconds, best.score, words, tuple(alternatives) if nbest > 1 else ()
    )
