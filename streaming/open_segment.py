"""The segment that is being spoken: its audio, encoder output and committed words, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.model.decoder import DecoderState
from asr.model.lm import LmState
from asr.model.states import Row
from asr.search import HotwordState, Hypothesis
from asr.search.alignment import TimedWord
from asr.transcript import Segment, Word

__all__ = ["Committed", "OpenSegment"]


class Committed(NamedTuple):
    """The part of a segment that will not change."""

    tokens: tuple[int, ...]
    words: tuple[Word, ...]
    score: float  # the decoder's log-probability of the tokens
    decoder: DecoderState  # of one row, after all tokens but the last
    end_frame: int  # end of the last word, in the frames that are kept
    lm: LmState | None = None  # state of the language model, of one row, after all tokens but the last


@dataclass(frozen=True)
class OpenSegment:
    """The segment that is being spoken. Frames are those of the encoder's output."""

    start_samples: int  # on the stream's clock
    samples: int  # its length
    unencoded: Tensor  # (samples,), less than a chunk
    carried: Row  # state of its encoder between chunks, a `Carried`
    level: Tensor  # (n,), the level in dB of each feature frame from its start, on the CPU
    encoder_out: Tensor  # (T, D), from the released frames on
    committed: Committed
    speech_db: float | None = None  # level of speech in dB re full scale that the model expects; None: any
    gain: float = 1.0  # of its samples, by the level of its first speech
    settled: int = 0  # frames from its start that will not be encoded again
    released: int = 0  # frames from its start that are no longer kept
    latest: Hypothesis | None = None  # what the latest search found after the committed words
    outline: tuple[int, ...] = ()  # CTC's greedy output after the committed words at the latest search
    hotwords: HotwordState = field(default_factory=HotwordState)  # after the search that found `latest`
    begun: bool = False  # its first chunk is encoded
    tentative: tuple[str, ...] = ()  # the words that the latest search found after the committed ones
    visible: tuple[str, ...] = ()  # the tentative words that the latest partial shows
    shown: bool = False  # a partial with words has been yielded
    ended: bool = False

    @property
    def start_seconds(self) -> float:
        """Its start on the stream's clock."""
        return self.start_samples / SAMPLE_RATE

    @property
    def end_seconds(self) -> float:
        """Its end so far on the stream's clock."""
        return (self.start_samples + self.samples) / SAMPLE_RATE

    @property
    def committed_frames(self) -> int:
        """Frames from its start to the end of the last committed word."""
        return self.released + self.committed.end_frame

    def words(self, found: Sequence[TimedWord], frame_seconds: float) -> tuple[Word, ...]:
        """Put words on the stream's clock; none begins before the committed words end."""
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
    ) -> OpenSegment:
        """Commit the first words of a hypothesis, and release older frames.

        Args:
            hypothesis: the tokens after the committed ones.
            words: the words to commit, the first of the hypothesis.
            decoder: the state for `Committed`; its alignment covers all frames kept before the call.
            frame_seconds: length of a frame.
            keep_frames: frames to keep before the end of the last word.
            lm: the language model's state for `Committed`.
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

    def finished(self, rest: Sequence[TimedWord], score: float, frame_seconds: float) -> Segment:
        """The finished segment: the committed words and the `rest`, whose `score` is added to theirs."""
        words = (*self.committed.words, *self.words(rest, frame_seconds))
        text = " ".join(word.text for word in words)
        return Segment(text, self.start_seconds, self.end_seconds, self.committed.score + score, words)
