"""One stream's state, and the transitions of it that need no model: a value that is passed in and returned.

A stream waits, with a pre-roll of what it heard last, until someone speaks; then a `Utterance` is open until the endpoint
rules close it. Memory is bounded by the longest utterance that they allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.decoder import DecoderState
from asr.encoder import EncoderState
from asr.features import FeatureState
from asr.segment import WINDOW_SAMPLES
from streaming.endpoint import Decision, EndpointConfig, EndpointState, VoiceState, advance, pre_roll_windows

__all__ = ["Committed", "Session", "Utterance"]

# A segment that grows too long is cut within this much of its end.
_TAIL_SECONDS = 4.0


class Committed(NamedTuple):
    """What of an utterance will not change any more."""

    tokens: tuple[int, ...]
    token_scores: tuple[float, ...]
    words: tuple[tuple[str, int, int, float], ...]  # text, first and last frame by CTC, confidence
    decoder: DecoderState  # of one row, after all the tokens but the last
    end_frame: int  # where the last of its words ends


@dataclass(frozen=True)
class Utterance:
    """The segment that is being spoken."""

    start_samples: int  # on the stream's clock
    samples: int  # how long it is
    unencoded: Tensor  # (samples,), not yet a whole chunk
    tail: Tensor  # (samples,), the latest audio, from which the next segment begins if this one has to be cut
    probabilities: tuple[float, ...]  # of speech in each window of `tail`
    features: FeatureState
    encoder: EncoderState
    encoder_out: Tensor  # (T, D)
    committed: Committed
    tentative: tuple[str, ...] = ()
    shown: bool = False  # a Partial with words has been given out
    ended: bool = False
    carried: Tensor | None = None  # (samples,), audio beyond its end, when it had to be cut


@dataclass(frozen=True)
class Session:
    """A stream; made by `Engine.start`."""

    unread: Tensor  # (samples,), less than the detector's window or not yet come to
    read_samples: int  # that went through the detector
    voice: VoiceState
    endpoint: EndpointState
    pre_roll: Tensor  # (samples,), what was heard last while waiting
    utterance: Utterance | None = None

    @property
    def heard_seconds(self) -> float:
        return self.read_samples / SAMPLE_RATE

    def receive(self, waveform: Tensor) -> Session:
        """Append what has arrived, `(samples,)`."""
        return replace(self, unread=torch.cat([self.unread, waveform]) if len(self.unread) else waveform)

    def hear(
        self, probability: float, voice: VoiceState, config: EndpointConfig, fresh: Utterance, frame_samples: float
    ) -> Session:
        """Take the next window, with what the detector made of it; may open or end an utterance.

        Args:
            probability: that the window is speech.
            voice: the detector's state after it.
            config: endpoint rules.
            fresh: an empty utterance, for the case that one begins.
            frame_samples: how much audio a frame of the encoder's output stands for.
        """
        window, unread = self.unread[:WINDOW_SAMPLES], self.unread[WINDOW_SAMPLES:]
        endpoint, decision = advance(self.endpoint, probability, config)
        heard = replace(
            self, unread=unread, read_samples=self.read_samples + len(window), voice=voice, endpoint=endpoint
        )
        if decision is Decision.WAIT:
            kept = torch.cat([self.pre_roll, window])[-pre_roll_windows(config) * WINDOW_SAMPLES :]
            return replace(heard, pre_roll=kept)
        if decision is Decision.BEGIN:
            begun = begin(fresh, torch.cat([self.pre_roll, window]), heard.read_samples)
            return replace(heard, pre_roll=self.pre_roll[:0], utterance=begun)
        if self.utterance is None:
            return heard
        utterance = _extended(self.utterance, window, probability, decision is Decision.END)
        if not utterance.ended and utterance.samples >= config.max_seconds * SAMPLE_RATE:
            utterance = _cut(utterance, frame_samples)
        return replace(heard, utterance=utterance)

    def close(self, fresh: Utterance) -> Session:
        """Let go of the ended utterance; what it could not hold any more begins the next one."""
        carried = self.utterance.carried if self.utterance else None
        if carried is None:
            return replace(self, utterance=None)
        return replace(self, utterance=begin(fresh, carried, self.read_samples))


def begin(fresh: Utterance, audio: Tensor, read_samples: int) -> Utterance:
    """An utterance that begins with `audio` `(samples,)`, the last of what has been heard."""
    windows = -(-len(audio) // WINDOW_SAMPLES)
    return replace(
        fresh,
        start_samples=read_samples - len(audio),
        samples=len(audio),
        unencoded=audio,
        tail=audio,
        probabilities=(1.0,) * windows,
    )


def _extended(utterance: Utterance, window: Tensor, probability: float, ended: bool) -> Utterance:
    keep = int(_TAIL_SECONDS * SAMPLE_RATE) // WINDOW_SAMPLES
    return replace(
        utterance,
        samples=utterance.samples + len(window),
        unencoded=torch.cat([utterance.unencoded, window]),
        tail=torch.cat([utterance.tail, window])[-keep * WINDOW_SAMPLES :],
        probabilities=(*utterance.probabilities, probability)[-keep:],
        ended=ended,
    )


def _cut(utterance: Utterance, frame_samples: float) -> Utterance:
    """End an utterance that has grown too long where it is least like speech, but after all that is committed."""
    first_tail_sample = utterance.samples - len(utterance.tail)
    committed = (utterance.committed.end_frame * frame_samples - first_tail_sample) / WINDOW_SAMPLES
    first = min(max(0, math.ceil(committed)), len(utterance.probabilities) - 1)
    window = min(range(first, len(utterance.probabilities)), key=utterance.probabilities.__getitem__)
    rest = utterance.tail[window * WINDOW_SAMPLES :]
    return replace(utterance, samples=utterance.samples - len(rest), carried=rest, ended=True)
