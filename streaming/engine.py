"""Many streams stepped as one batch on one device: one detector, encoder and search step for all of them.

`Engine` holds the model and the settings; what a stream has been through is in its `Session`, which `step` takes and
returns. The microphone is an engine with one session.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio import SAMPLE_RATE
from asr.config import Context, SearchConfig
from asr.ctc import align
from asr.decoder import DecoderState
from asr.encoder import EncoderState
from asr.features import FeatureState
from asr.model import Encoded
from asr.search import Hypothesis, Prefix, beam_search
from asr.segment import WINDOW_SAMPLES
from asr.tokenizer import SOS
from asr.transcribe import Recogniser
from asr.transcript import Segment, Word
from streaming.endpoint import EndpointConfig, EndpointState, VoiceDetector, VoiceState
from streaming.events import Event, Final, Partial
from streaming.policy import FoundWord, PolicyConfig, committable
from streaming.session import Committed, Session, Utterance

__all__ = ["Engine", "StreamConfig"]


@dataclass(frozen=True)
class StreamConfig:
    """How streams are run. `context` and `final` are the model's own where None."""

    context: Context | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    partial_beam_size: int = 3
    final: SearchConfig | None = None


class Engine:
    """Steps sessions.

    Args:
        recogniser: the model, on its device.
        config: settings of all sessions.

    Raises:
        ConfigError: if the context is not bounded.
    """

    def __init__(self, recogniser: Recogniser, config: StreamConfig | None = None) -> None:
        self.recogniser, self.config = recogniser, config or StreamConfig()
        self.model, self.device = recogniser.model, recogniser.device
        model_config = recogniser.model.config
        self.context = self.config.context or model_config.streaming
        self.latency_ms = self.model.encoder.lookahead_ms(self.context) + (self.context.chunk_ms or 0)
        self.final = self.config.final or model_config.search
        self.partial = replace(self.final, beam_size=self.config.partial_beam_size, nbest=1, coverage_penalty=0.0)
        self.chunk_samples = SAMPLE_RATE * (self.context.chunk_ms or 0) // 1000
        self.frame_samples = model_config.frame_seconds * SAMPLE_RATE
        self.detector = VoiceDetector(self.device)
        self._fresh = self._fresh_utterance()
        self._word_starts = torch.tensor(recogniser.tokenizer.word_starts, device=self.device)

    def start(self) -> Session:
        """A new stream."""
        nothing = torch.zeros(0)
        return Session(nothing, 0, VoiceState.start(1, self.device), EndpointState(), nothing)

    @torch.inference_mode()
    def step(
        self, sessions: Sequence[Session], chunks: Sequence[Tensor], final: Sequence[bool] | None = None
    ) -> tuple[list[Session], list[list[Event]]]:
        """Advance streams by what has arrived of each.

        Args:
            sessions: any number of streams.
            chunks: for each, 16 kHz mono float32 `(samples,)`, any length, none included.
            final: for each, whether it ends with this chunk; what is open is then finished.

        Returns:
            The sessions as they are now, and for each its events in order.
        """
        ends = list(final or [False] * len(sessions))
        now = [s.receive(c) for s, c in zip(sessions, chunks, strict=True)]
        events: list[list[Event]] = [[] for _ in now]
        while ready := [
            i for i, s in enumerate(now) if len(s.unread) >= WINDOW_SAMPLES or (ends[i] and len(s.unread))
        ]:
            self._hear(now, ready)
            self._advance(now, ready, events)
        for i in (i for i, end in enumerate(ends) if end):
            while (utterance := now[i].utterance) is not None:
                now[i] = replace(now[i], utterance=replace(utterance, ended=True))
                self._advance(now, [i], events)
        return now, events

    def _advance(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Encode what makes a chunk, and spell what is new."""
        grown = self._encode(now, rows)
        self._show(now, [i for i in grown if not _ended(now[i])], events)
        for i in rows:
            if _ended(now[i]):
                now[i] = self._finish(now[i], events[i])

    def _hear(self, now: list[Session], rows: list[int]) -> None:
        windows = [now[i].unread[:WINDOW_SAMPLES] for i in rows]
        padded = torch.stack([torch.nn.functional.pad(w, (0, WINDOW_SAMPLES - len(w))) for w in windows])
        voice = VoiceState.stack([now[i].voice for i in rows])
        probabilities, voice = self.detector.step(padded.to(self.device, non_blocking=True), voice)
        for i, p, v in zip(rows, probabilities.tolist(), voice.split(), strict=True):
            now[i] = now[i].hear(p, v, self.config.endpoint, self._fresh, self.frame_samples)

    def _encode(self, now: list[Session], rows: list[int]) -> list[int]:
        """Run the encoder where a chunk is complete or the utterance has ended; says which rows have new frames."""
        due: dict[tuple[object, ...], list[int]] = {}
        for i in rows:
            utterance = now[i].utterance
            if utterance is None or not (utterance.ended or len(utterance.unencoded) >= self.chunk_samples):
                continue
            samples = len(utterance.unencoded) if utterance.ended else self.chunk_samples
            key = (utterance.ended, samples, utterance.features.pending.shape, utterance.encoder.shape)
            due.setdefault(key, []).append(i)
        grown: list[int] = []
        for (ended, samples, *_), group in due.items():
            grown += self._encode_alike(now, group, int(str(samples)), bool(ended))
        return grown

    def _encode_alike(self, now: list[Session], rows: list[int], samples: int, ended: bool) -> list[int]:
        utterances = [u for i in rows if (u := now[i].utterance) is not None]
        waveform = torch.stack([u.unencoded[:samples] for u in utterances]).to(self.device, non_blocking=True)
        state = FeatureState(torch.cat([u.features.pending for u in utterances]))
        features, state = self.model.features.step(waveform, state)
        encoder = EncoderState.stack([u.encoder for u in utterances])
        out, encoder = self.model.encoder.step(features.to(self.model.dtype), encoder, self.context, ended)
        parts = zip(rows, utterances, state.pending.split(1), encoder.split(), out, strict=True)
        for i, utterance, pending, encoder_state, frames in parts:
            grown = replace(
                utterance,
                unencoded=utterance.unencoded[samples:],
                features=FeatureState(pending),
                encoder=encoder_state,
                encoder_out=torch.cat([utterance.encoder_out, frames]),
            )
            now[i] = replace(now[i], utterance=grown)
        return rows if out.shape[1] else []

    def _show(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Search on from what is committed, commit what is sure, and give out what is heard so far."""
        utterances = [u for i in rows if (u := now[i].utterance) is not None]
        if not utterances:
            return
        encoded = Encoded(
            pad_sequence([u.encoder_out for u in utterances], batch_first=True),
            torch.tensor([len(u.encoder_out) for u in utterances], device=self.device),
        )
        prefix = self._prefix([u.committed for u in utterances], encoded.encoder_out.shape[1])
        found = [h[0] for h in beam_search(self.model, encoded, self.partial, self.recogniser.lm, prefix)]
        traced = self._trace(encoded, prefix, found)
        for row, (i, utterance) in enumerate(zip(rows, utterances, strict=True)):
            words = self._words(utterance, found[row], [int(peak[row]) for peak, _ in traced])
            heard = len(utterance.encoder_out)
            frame_ms = self.model.encoder.frame_ms
            count = committable(words, utterance.tentative, heard, frame_ms, self.config.policy)
            committed = utterance.committed
            if count:
                tokens = words[count - 1].tokens
                committed = _commit(committed, found[row], words[:count], _row(traced[tokens - 1][1], row))
            shown = replace(
                utterance,
                committed=committed,
                tentative=tuple(w.text for w in words[count:]),
                shown=utterance.shown or bool(words),
            )
            if shown.tentative != utterance.tentative or count:
                events[i].append(self._partial(shown, words[count:], now[i].heard_seconds))
            now[i] = replace(now[i], utterance=shown)

    def _trace(self, encoded: Encoded, prefix: Prefix, found: list[Hypothesis]) -> list[tuple[Tensor, DecoderState]]:
        """Follow the hypotheses once more: for each token where the speller looked, and its state before the token."""
        longest = max(len(h.tokens) for h in found)
        spelled = torch.tensor([h.tokens + [SOS] * (longest - len(h.tokens)) for h in found], device=self.device)
        memory = self.model.decoder.prepare(*encoded)
        last, state = prefix.last, prefix.decoder
        traced: list[tuple[Tensor, DecoderState]] = []
        for u in range(longest):
            _, state = self.model.decoder.step(last, state, memory)
            last = spelled[:, u]
            traced.append((state.alignment.mean(1).argmax(-1), state))
        peaks = torch.stack([p for p, _ in traced]).cpu() if traced else torch.zeros(0, len(found))
        return [(peak, state) for peak, (_, state) in zip(peaks, traced, strict=True)]

    def _words(self, utterance: Utterance, found: Hypothesis, peaks: list[int]) -> list[FoundWord]:
        """The words of what was found after the committed ones, with where they were heard."""
        start, heard = utterance.committed.end_frame, len(utterance.encoder_out)
        spans = align(self.model.ctc_log_probs(utterance.encoder_out[start:]).cpu(), found.tokens)
        if spans is None:  # more tokens than frames: they are too close to the edge to be sure of
            spans = [(heard - start, heard - start)] * len(found.tokens)
        words = []
        for text, first, after in self.recogniser.tokenizer.words(found.tokens):
            confidence = torch.tensor(found.token_scores[first:after]).mean().exp().item()
            frames = (start + spans[first][0], start + spans[after - 1][1])
            words.append(FoundWord(text, after, max(peaks[first:after]), *frames, min(1.0, confidence)))
        return words

    def _partial(self, utterance: Utterance, words: list[FoundWord], heard_seconds: float) -> Partial:
        tentative = (self._word(utterance, w.text, w.first_frame, w.last_frame, w.confidence) for w in words)
        committed = (self._word(utterance, *w) for w in utterance.committed.words)
        return Partial(tuple(committed), tuple(tentative), heard_seconds)

    def _word(self, utterance: Utterance, text: str, first_frame: int, last_frame: int, confidence: float) -> Word:
        start, frame = utterance.start_samples / SAMPLE_RATE, self.frame_samples / SAMPLE_RATE
        return Word(text, start + first_frame * frame, start + last_frame * frame, confidence)

    def _finish(self, session: Session, events: list[Event]) -> Session:
        """Search to the end of an ended utterance with all the weight of whole files, given what is committed."""
        utterance = session.utterance
        if utterance is None:
            return session
        frames = round(utterance.samples / self.frame_samples)
        encoder_out = utterance.encoder_out[None, :frames]
        committed = utterance.committed
        hypothesis = Hypothesis([], 0.0, [])
        if encoder_out.shape[1]:
            encoded = Encoded(encoder_out, torch.tensor([encoder_out.shape[1]], device=self.device))
            prefix = self._prefix([committed], encoder_out.shape[1])
            hypothesis = beam_search(self.model, encoded, self.final, self.recogniser.lm, prefix)[0][0]
        whole = Hypothesis(
            [*committed.tokens, *hypothesis.tokens],
            hypothesis.score,
            [*committed.token_scores, *hypothesis.token_scores],
        )
        text = self.recogniser.tokenizer.decode(whole.tokens)
        if text or utterance.shown:
            start, seconds = utterance.start_samples / SAMPLE_RATE, utterance.samples / SAMPLE_RATE
            log_probs = self.model.ctc_log_probs(encoder_out[0]).cpu()
            words = self.recogniser.words(whole, log_probs, seconds, start)
            segment = Segment(text, start, start + seconds, whole.score, tuple(words))
            events.append(Final(segment, session.heard_seconds))
        return session.close(self._fresh)

    def _prefix(self, committed: Sequence[Committed], frames: int) -> Prefix:
        """What searches go on from, their alignments brought to the same number of frames."""
        last = torch.tensor([c.tokens[-1] if c.tokens else SOS for c in committed], device=self.device)
        first_frame = torch.tensor([c.end_frame for c in committed], device=self.device)
        rows = [Prefix(last, c.decoder, first_frame, self._word_starts).widened(frames).decoder for c in committed]
        decoder = DecoderState(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        return Prefix(last, decoder, first_frame, self._word_starts)

    def _fresh_utterance(self) -> Utterance:
        with torch.inference_mode():
            nothing = torch.zeros(0)
            encoder_out = torch.zeros(0, self.model.config.encoder.output_size, device=self.device)
            encoder_out = encoder_out.to(self.model.dtype)
            lengths = torch.ones(1, dtype=torch.long, device=self.device)
            memory = self.model.decoder.prepare(encoder_out.new_zeros(1, 1, encoder_out.shape[1]), lengths)
            return Utterance(
                start_samples=0,
                samples=0,
                unencoded=nothing,
                tail=nothing,
                probabilities=(),
                features=self.model.features.initial_state(1),
                encoder=self.model.encoder.initial_state(1),
                encoder_out=encoder_out,
                committed=Committed((), (), (), self.model.decoder.initial_state(memory), 0),
            )


def _ended(session: Session) -> bool:
    return session.utterance is not None and session.utterance.ended


def _row(state: DecoderState, row: int) -> DecoderState:
    return DecoderState(*(x[row : row + 1].clone() for x in state))


def _commit(committed: Committed, found: Hypothesis, words: list[FoundWord], decoder: DecoderState) -> Committed:
    count = words[-1].tokens
    return Committed(
        tokens=(*committed.tokens, *found.tokens[:count]),
        token_scores=(*committed.token_scores, *found.token_scores[:count]),
        words=(*committed.words, *((w.text, w.first_frame, w.last_frame, w.confidence) for w in words)),
        decoder=decoder,
        end_frame=words[-1].last_frame,
    )
