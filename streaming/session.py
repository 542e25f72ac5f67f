"""One stream's state, and the transitions of it that need no model: a value that is passed in and returned.

A stream waits, with the last of what it heard as padding, until someone speaks; then an `Utterance` is open until the
endpoint rules close it. Memory is bounded by the longest utterance that they allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, SpeechState
from asr.errors import AudioError
from asr.model.decoder import DecoderState
from asr.model.encoder import EncoderState
from asr.model.features import FeatureState
from asr.model.lm import LmState
from asr.search import Hypothesis
from asr.search.alignment import TimedWord
from asr.transcript import Segment, Word
from streaming.endpoint import Decision, EndpointConfig, EndpointState, advance

__all__ = ["Committed", "Session", "Utterance", "Window", "check_chunk"]

# A segment that grows too long is cut within this much of its end.
_TAIL_WINDOWS = int(4.0 * SAMPLE_RATE) // WINDOW_SAMPLES


class Window(NamedTuple):
    """A stretch of 32 ms that was heard; only the last of a stream may be shorter."""

    samples: Tensor
    probability: float  # that it is speech


class Committed(NamedTuple):
    """What of an utterance will not change any more."""

    tokens: tuple[int, ...]
    words: tuple[Word, ...]
    score: float  # the speller's log-probability of the tokens
    decoder: DecoderState  # of one row, after all the tokens but the last
    end_frame: int  # where the last of the words ends, in the frames that are kept
    lm: LmState | None = None  # the language model's, of one row, after all the tokens but the last


@dataclass(frozen=True)
class Utterance:
    """The segment that is being spoken."""

    start_samples: int  # on the stream's clock
    samples: int  # how long it is
    unencoded: Tensor  # (samples,), not yet a whole chunk
    features: FeatureState
    encoder: EncoderState  # after the settled frames
    recent: Tensor  # features after that state, (1, t, n_mels)
    level: Tensor  # (n,), decibels of its feature frames from its start, on the CPU
    encoder_out: Tensor  # (T, D), what is kept of it: frames well behind the committed words are released
    committed: Committed
    settled: int = 0  # frames, from the utterance's start; those after them will be encoded anew
    released: int = 0  # frames
    begun: bool = False  # the encoder has been given its first chunk
    tentative: tuple[str, ...] = ()
    shown: bool = False  # a Partial with words has been given out
    ended: bool = False

    @property
    def start_seconds(self) -> float:
        return self.start_samples / SAMPLE_RATE

    @property
    def end_seconds(self) -> float:
        return (self.start_samples + self.samples) / SAMPLE_RATE

    @property
    def committed_frames(self) -> int:
        """From its start to where the last of the committed words ends."""
        return self.released + self.committed.end_frame

    def words(self, found: Sequence[TimedWord], frame_seconds: float) -> tuple[Word, ...]:
        """Words with their times on the stream's clock; none begins before the committed words end."""
        start = self.start_seconds + self.released * frame_seconds
        earliest = self.committed.words[-1].end_seconds if self.committed.words else self.start_seconds
        words = []
        for word in found:
            times = (start + word.start_seconds, start + word.end_seconds)
            begin, end = (min(max(seconds, earliest), self.end_seconds) for seconds in times)
            words.append(Word(word.text, begin, end, word.confidence))
        return tuple(words)

    def commit(
        self,
        hypothesis: Hypothesis,
        words: Sequence[TimedWord],
        decoder: DecoderState,
        frame_seconds: float,
        keep_frames: int,
        lm: LmState | None = None,
    ) -> Utterance:
        """Commit the first `words` of a hypothesis, and release what lies `keep_frames` behind them.

        `decoder` and `lm` are what `Committed` has, the former over all frames that were kept until now.
        """
        before, count = self.committed, words[-1].tokens
        release = max(0, words[-1].last_frame - keep_frames)
        committed = Committed(
            tokens=(*before.tokens, *hypothesis.tokens[:count]),
            words=(*before.words, *self.words(words, frame_seconds)),
            score=before.score + sum(hypothesis.token_scores[:count]),
            decoder=decoder._replace(alignment=decoder.alignment[..., release : len(self.encoder_out)].clone()),
            end_frame=words[-1].last_frame - release,
            lm=lm,
        )
        kept = self.encoder_out[release:].clone() if release else self.encoder_out
        return replace(self, committed=committed, encoder_out=kept, released=self.released + release)

    def segment(self, rest: Sequence[TimedWord], score: float, frame_seconds: float) -> Segment:
        """The committed words and, with their score, those that were found at its end."""
        words = (*self.committed.words, *self.words(rest, frame_seconds))
        text = " ".join(word.text for word in words)
        return Segment(text, self.start_seconds, self.end_seconds, self.committed.score + score, words)


@dataclass(frozen=True)
class Session:
    """A stream; made by `Engine.start`."""

    unread: Tensor  # (samples,), less than the detector's window or not yet come to
    read_samples: int  # that went through the detector
    speech: SpeechState
    endpoint: EndpointState
    latest: tuple[Window, ...] = ()  # while waiting the padding, then the end of the utterance, where it may be cut
    utterance: Utterance | None = None

    @property
    def heard_seconds(self) -> float:
        return self.read_samples / SAMPLE_RATE

    @property
    def opened(self) -> Utterance:
        """The utterance, where there must be one."""
        if self.utterance is None:
            raise RuntimeError("no utterance is open")
        return self.utterance

    def receive(self, waveform: Tensor) -> Session:
        """Append what has arrived, `(samples,)`."""
        return replace(self, unread=torch.cat([self.unread, waveform])) if len(waveform) else self

    def settle(self) -> Session:
        """Let go of the memory of what has been read, and of whoever owned it."""
        return replace(self, unread=self.unread.clone())

    def hear(
        self, probability: float, speech: SpeechState, config: EndpointConfig, fresh: Utterance, frame_samples: float
    ) -> Session:
        """Take the next window, with what the detector made of it; may open or end an utterance.

        Args:
            probability: that the window is speech.
            speech: the detector's state after it.
            config: endpoint rules.
            fresh: an empty utterance, for the case that one begins.
            frame_samples: how much audio a frame of the encoder's output stands for.
        """
        window = self.unread[:WINDOW_SAMPLES].clone()  # so that it does not keep all that came with it
        endpoint, decision = advance(self.endpoint, probability, config)
        keep = config.held_windows if decision is Decision.WAIT else max(_TAIL_WINDOWS, config.held_windows + 1)
        heard = Session(
            unread=self.unread[WINDOW_SAMPLES:],
            read_samples=self.read_samples + len(window),
            speech=speech,
            endpoint=endpoint,
            latest=_last((*self.latest, Window(window, probability)), keep),
            utterance=self.utterance,
        )
        if decision is Decision.BEGIN:
            return heard.begin(fresh)
        if self.utterance is None:
            return heard
        utterance = replace(
            self.utterance,
            samples=self.utterance.samples + len(window),
            unencoded=torch.cat([self.utterance.unencoded, window]),
        )
        heard = replace(heard, utterance=utterance)
        if decision is Decision.END:
            # Half of the silence is left for the next utterance's padding: it may begin at once.
            spare = min(config.held_windows, config.silence_windows // 2)
            return heard.cut(max(len(heard.latest) - spare, _first_free(heard.latest, utterance, frame_samples)))
        if utterance.samples >= config.max_seconds * SAMPLE_RATE:
            return heard.cut_short(config, frame_samples)
        return heard

    def begin(self, fresh: Utterance) -> Session:
        """Open an utterance that begins with the latest windows."""
        audio = torch.cat([w.samples for w in self.latest])
        start = self.read_samples - len(audio)
        return replace(self, utterance=replace(fresh, start_samples=start, samples=len(audio), unencoded=audio))

    def cut(self, at: int) -> Session:
        """End the utterance before the window `latest[at]`; what follows stays, for the next one."""
        rest = self.latest[at:]
        samples = self.opened.samples - sum(len(w.samples) for w in rest)
        return replace(self, latest=rest, utterance=replace(self.opened, samples=samples, ended=True))

    def cut_short(self, config: EndpointConfig, frame_samples: float) -> Session:
        """End an utterance that has grown too long where it is least like speech, but after all that is committed."""
        half = len(self.latest) - self.opened.samples // (2 * WINDOW_SAMPLES)
        first = min(max(half, _first_free(self.latest, self.opened, frame_samples)), len(self.latest) - 1)
        at = min(range(first, len(self.latest)), key=lambda i: self.latest[i].probability)
        ended = self.cut(at)
        if all(w.probability < config.silence_threshold for w in ended.latest):  # nobody speaks on
            return replace(ended, endpoint=EndpointState(), latest=_last(ended.latest, config.held_windows))
        return ended

    def close(self, fresh: Utterance) -> Session:
        """Let go of the ended utterance; where someone speaks on, what it could not hold begins the next one."""
        return self.begin(fresh) if self.endpoint.speaking else replace(self, utterance=None)

    def end(self) -> Session:
        """End the utterance and wait, for nothing or for someone to begin afresh."""
        ended = replace(self.utterance, ended=True) if self.utterance else None
        return replace(self, endpoint=EndpointState(), latest=(), utterance=ended)

    def skip(self, samples: int) -> Session:
        """Go on after a gap: so much was lost between what has been heard and what comes next. Only after `end`."""
        return replace(self, read_samples=self.read_samples + samples)


def _last(windows: tuple[Window, ...], count: int) -> tuple[Window, ...]:
    return windows[max(0, len(windows) - count) :]


def _first_free(latest: tuple[Window, ...], utterance: Utterance, frame_samples: float) -> int:
    """The first of the latest windows that lies wholly behind the committed words."""
    first_sample = utterance.samples - sum(len(w.samples) for w in latest)
    committed = math.ceil((utterance.committed_frames * frame_samples - first_sample) / WINDOW_SAMPLES)
    return min(max(0, committed), len(latest))


def check_chunk(chunk: object, source: object) -> None:
    """Refuse what is no stretch of 16 kHz mono float32 samples `(samples,)`.

    Raises:
        AudioError: naming `source` and what is wrong.
    """
    if not isinstance(chunk, Tensor):
        raise AudioError(source, f"a chunk is of type {type(chunk).__name__}: it must be a torch.Tensor")
    if chunk.dtype != torch.float32 or chunk.dim() != 1 or chunk.device.type != "cpu":
        found = f"{chunk.dtype} {tuple(chunk.shape)} on {chunk.device.type}"
        raise AudioError(source, f"a chunk is {found}: it must be torch.float32 (samples,) on cpu")
    if not bool(chunk.isfinite().all()):
        raise AudioError(source, "a sample in a chunk is NaN or infinite")
