"""Many streams stepped as one batch on one device: one detector, encoder and search step for all of them.

`Engine` holds the model and the settings; what a stream has been through is in its `Session`, which `step` takes and
returns. The microphone is an engine with one session.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, SpeechDetector, SpeechState
from asr.config import Context, SearchConfig, require
from asr.model.decoder import DecoderState
from asr.model.encoder import EncoderState
from asr.model.features import FeatureState
from asr.model.las import Encoded
from asr.model.lm import LmState
from asr.recogniser import Recogniser
from asr.search import Hypothesis, Prefix, beam_search
from asr.search.alignment import Sound, TimedWord, time_words
from asr.text.tokenizer import EOS, SOS
from asr.transcript import Alternative
from streaming.endpoint import EndpointConfig, EndpointState
from streaming.events import Event, Final, Partial
from streaming.policy import PolicyConfig, committable
from streaming.session import Committed, Session, Utterance, check_chunk

__all__ = ["Engine", "StreamConfig"]

# Of what lies behind the committed words so much is kept, for the speller to see where it was.
_KEEP_SECONDS = 1.2


@dataclass(frozen=True)
class StreamConfig:
    """How streams are run. `context` and `final` are the model's own where None.

    `overlap_ms`: so much audio before a new chunk, rounded up to whole chunks, is encoded anew with it, so that all but
    the latest words have been heard with what came after them, at no delay. `alternatives` is how many a finished
    segment has, itself included; they differ after what had been committed.
    """

    context: Context | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    overlap_ms: int = 1200
    partial_beam_size: int = 8
    final: SearchConfig | None = None
    alternatives: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.overlap_ms <= 10_000, "overlap_ms", self.overlap_ms, "in 0..10000")
        require(self.alternatives >= 1, "alternatives", self.alternatives, "at least 1")
        require(1 <= self.partial_beam_size <= 256, "partial_beam_size", self.partial_beam_size, "in 1..256")


class Engine:
    """Steps sessions.

    Args:
        recogniser: the model, on its device.
        config: settings of all sessions.

    Raises:
        CheckpointError: if the language model is broken.
        ConfigError: if the context is not bounded, or a language model is given a weight, but there is none.
    """

    def __init__(self, recogniser: Recogniser, config: StreamConfig | None = None) -> None:
        self.recogniser, self.config = recogniser, config or StreamConfig()
        self.model, self.device, settings = recogniser.model, recogniser.device, recogniser.model.config
        self.context = self.config.context or settings.streaming
        final = self.config.final or settings.search
        self.final = replace(final, nbest=min(self.config.alternatives, final.beam_size))
        self.lm = recogniser.language_model(self.final)
        # What has been heard so far is no sentence: that it is unlikely to end there must not make the speller go on,
        # and CTC, which knows of no ends, has more to say.
        unfinished = replace(final, nbest=1, eos_threshold=0.0, ctc_weight=max(0.5, final.ctc_weight))
        self.partial = replace(unfinished, beam_size=self.config.partial_beam_size, coverage_penalty=0.0)
        self.frame_samples = settings.frame_seconds * SAMPLE_RATE
        chunk_ms, features = self.model.encoder.chunk_ms(self.context), settings.features
        frontend_ms = 1000 * (features.n_fft - features.hop_length) / SAMPLE_RATE
        lookahead_ms = self.model.encoder.lookahead_ms(self.context)
        self.lookahead_frames = math.ceil(lookahead_ms / self.model.encoder.frame_ms)
        # Where no frame depends on a later one, there is nothing to be made anew.
        looks_ahead = settings.encoder.bidirectional or settings.encoder.hybrid.layers > 0
        chunks = math.ceil(self.config.overlap_ms / chunk_ms) if looks_ahead else 0
        self.overlap_frames = round(chunks * chunk_ms / self.model.encoder.frame_ms)
        self.latency_ms = chunk_ms + lookahead_ms + frontend_ms
        # The first chunk waits until it has all that it depends on, so that every chunk gives its own frames: otherwise
        # they would be held back, for the sake of a few samples, until the next is there.
        self.chunk_samples, self.first_samples = (round(ms * SAMPLE_RATE / 1000) for ms in (chunk_ms, self.latency_ms))
        self.detector = SpeechDetector(self.device)
        self._word_starts = torch.tensor(recogniser.tokenizer.word_starts, device=self.device)
        self._fresh = self._fresh_utterance()

    def start(self) -> Session:
        """A new stream."""
        return Session(torch.zeros(0), 0, SpeechState.start(1, self.device), EndpointState())

    @torch.inference_mode()
    def step(
        self, sessions: Sequence[Session], chunks: Sequence[Tensor], final: Sequence[bool] | None = None
    ) -> tuple[list[Session], list[list[Event]]]:
        """Advance streams by what has arrived of each.

        Args:
            sessions: any number of streams.
            chunks: for each, 16 kHz mono float32 `(samples,)` on the CPU, any length, none included.
            final: for each, whether it ends with this chunk; what is open is then finished.

        Returns:
            The sessions as they are now, and for each its events in order.

        Raises:
            AudioError: if a chunk is of another kind, or a sample in it is NaN or infinite; no session has then moved.
        """
        ends = list(final or [False] * len(sessions))
        for i, chunk in enumerate(chunks):
            check_chunk(chunk, f"stream {i}")
        now = [s.receive(c) for s, c in zip(sessions, chunks, strict=True)]
        events: list[list[Event]] = [[] for _ in now]
        due: set[int] = set()  # what has come to where the model must be asked waits there for the others
        while True:
            enough = (1 if end else WINDOW_SAMPLES for end in ends)
            ready = [i for i, n in enumerate(enough) if i not in due and len(now[i].unread) >= n]
            if ready:
                self._hear(now, ready)
                due |= {i for i in ready if self._due(now[i].utterance) is not None}
            elif due:
                self._advance(now, sorted(due), events)
                due.clear()
            else:
                break
        ended = [i for i, end in enumerate(ends) if end]
        for i in ended:
            now[i] = now[i].end()
        self._advance(now, ended, events)
        return [s.settle() for s in now], events

    def _hear(self, now: list[Session], rows: list[int]) -> None:
        """Take a window of each stream."""
        windows = pad_sequence([now[i].unread[:WINDOW_SAMPLES] for i in rows], batch_first=True)
        windows = torch.nn.functional.pad(windows, (0, WINDOW_SAMPLES - windows.shape[1]))
        speech = SpeechState.stack([now[i].speech for i in rows])
        probabilities, speech = self.detector.step(self._placed(windows), speech)
        for i, probability, state in zip(rows, probabilities.tolist(), speech.split(), strict=True):
            now[i] = now[i].hear(probability, state, self.config.endpoint, self._fresh, self.frame_samples)

    def _advance(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Encode what makes a chunk, spell what is new, and finish what has ended."""
        open_rows = [i for i in rows if now[i].utterance is not None]
        grown = self._encode(now, open_rows)
        if going := [i for i in grown if not now[i].opened.ended]:
            self._show(now, going, events)
        if ended := [i for i in open_rows if now[i].opened.ended]:
            self._finish(now, ended, events)

    def _encode(self, now: list[Session], rows: list[int]) -> list[int]:
        """Run the encoder where a chunk is complete or the utterance has ended; says which rows have new frames."""
        due: dict[tuple[bool, int, tuple[int, ...]], list[int]] = {}
        for i in rows:
            utterance = now[i].opened
            if (samples := self._due(utterance)) is not None:
                waiting = (utterance.features.pending.shape[1], utterance.recent.shape[1], *utterance.encoder.shape)
                due.setdefault((utterance.ended, samples, waiting), []).append(i)
        return [i for (ended, samples, _), group in due.items() for i in self._encode_alike(now, group, samples, ended)]

    def _due(self, utterance: Utterance | None) -> int | None:
        """How many samples of an utterance are to be encoded now; None if it has to wait for more."""
        if utterance is None or utterance.ended:
            return None if utterance is None else len(utterance.unencoded)
        beyond = len(utterance.unencoded) - (self.chunk_samples if utterance.begun else self.first_samples)
        return None if beyond < 0 else len(utterance.unencoded) - beyond % self.chunk_samples

    def _encode_alike(self, now: list[Session], rows: list[int], samples: int, ended: bool) -> list[int]:
        utterances = [now[i].opened for i in rows]
        waveform = self._placed(torch.stack([u.unencoded[:samples] for u in utterances]))
        state = FeatureState(torch.cat([u.features.pending for u in utterances]))
        features, state = self.model.features.step(waveform, state)
        levels = self.model.features.level(features).cpu()
        recent = torch.cat([torch.cat([u.recent for u in utterances]), features.to(self.model.dtype)], dim=1)
        encoder = EncoderState.stack([u.encoder for u in utterances])
        out, encoder, settled, recent = self._encode_anew(recent, encoder, ended)
        states = zip(state.pending.split(1), encoder.split(), strict=True)
        parts = zip(rows, utterances, states, out, recent.split(1), levels, strict=True)
        for i, utterance, (pending, encoder_state), frames, latest, level in parts:
            ahead = utterance.settled - utterance.released  # below 0 where settled frames to come are released already
            grown = replace(
                utterance,
                begun=True,
                unencoded=utterance.unencoded[samples:].clone(),
                features=FeatureState(pending),
                encoder=encoder_state,
                level=torch.cat([utterance.level, level]),
                recent=latest.clone(),  # of its own: the others' need not live as long
                encoder_out=torch.cat([utterance.encoder_out[: max(0, ahead)], frames[max(0, -ahead) :]]),
                settled=utterance.settled + settled,
            )
            now[i] = replace(now[i], utterance=grown)
        return rows if out.shape[1] else []

    def _encode_anew(
        self, features: Tensor, state: EncoderState, ended: bool
    ) -> tuple[Tensor, EncoderState, int, Tensor]:
        """Encode all `features` `(B, t, n_mels)` that came after a state.

        Returns:
            The frames from that state on, all that are to be seen; the next state; how many of the frames lie before it
            and so have settled; and the features after it.
        """
        encoder = self.model.encoder
        if not self.overlap_frames:
            out, state = encoder.step(features, state, self.context, ended)
            return out, state, out.shape[1], features[:, :0]
        if ended:  # and needs no state to go on from
            out, state = encoder.preview(features, state, 0)
            return out, state, out.shape[1], features[:, :0]
        known = max(0, -(-features.shape[1] // encoder.config.reduction) - self.lookahead_frames)
        settled = max(0, known - self.overlap_frames)
        out, state = encoder.preview(features, state, settled)
        return out[:, :known], state, settled, features[:, settled * encoder.config.reduction :]

    def _show(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Search on from what is committed, commit what is sure, and give out what is heard so far."""
        utterances = [now[i].opened for i in rows]
        encoded = self._encoded([u.encoder_out for u in utterances])
        committed, policy = [u.committed for u in utterances], self.config.policy
        found = [best for best, *_ in self._search(encoded, committed, self.partial)]
        peaks = None
        if policy.kind == "attention":
            traced = self._trace(encoded, committed, [h.tokens for h in found])
            peaks = [torch.stack([t[row] for t, _ in traced]).tolist() if traced else [] for row in range(len(rows))]
        words = self._words(encoded, utterances, found, peaks)
        pairs, frame_ms = zip(words, utterances, strict=True), self.model.encoder.frame_ms
        counts = [committable(w, u.tentative, len(u.encoder_out), frame_ms, policy) for w, u in pairs]
        after = self._commit(encoded, utterances, found, words, counts)
        for row, (i, before) in enumerate(zip(rows, utterances, strict=True)):
            rest = words[row][counts[row] :]
            tentative = tuple(w.text for w in rest)
            shown = replace(after[row], tentative=tentative, shown=before.shown or bool(words[row]))
            if tentative != before.tentative or counts[row]:
                times = before.words(rest, self.model.config.frame_seconds)
                events[i].append(Partial(shown.committed.words, times, now[i].heard_seconds))
            now[i] = replace(now[i], utterance=shown)

    def _commit(
        self,
        encoded: Encoded,
        utterances: Sequence[Utterance],
        found: Sequence[Hypothesis],
        words: Sequence[Sequence[TimedWord]],
        counts: Sequence[int],
    ) -> list[Utterance]:
        """The utterances with the first `counts` of their `words` committed."""
        after = list(utterances)
        if not (rows := [row for row, count in enumerate(counts) if count]):
            return after
        sure = [found[row].tokens[: words[row][counts[row] - 1].tokens] for row in rows]
        some, committed = Encoded(*(x[rows] for x in encoded)), [utterances[row].committed for row in rows]
        traced, lm_states = self._trace(some, committed, sure), self._lm_states(committed, sure)
        for place, (row, tokens) in enumerate(zip(rows, sure, strict=True)):
            decoder = DecoderState(*(x[place : place + 1].clone() for x in traced[len(tokens) - 1][1]))
            new, seconds = words[row][: counts[row]], self.model.config.frame_seconds
            keep_frames = round(_KEEP_SECONDS / seconds)
            after[row] = utterances[row].commit(found[row], new, decoder, seconds, keep_frames, lm_states[place])
        return after

    def _lm_states(self, committed: Sequence[Committed], tokens: Sequence[Sequence[int]]) -> Sequence[LmState | None]:
        """The language model's state, of one row each, before the last of the tokens after the committed ones."""
        if self.lm is None or (state := _stack_lm(committed)) is None:
            return [None] * len(committed)
        read = [[c.tokens[-1] if c.tokens else SOS, *t[:-1]] for c, t in zip(committed, tokens, strict=True)]
        longest, lengths = max(map(len, read)), torch.tensor([len(r) for r in read], device=self.device)
        padded = torch.tensor([[*r, *[EOS] * (longest - len(r))] for r in read], device=self.device)
        for u in range(longest):
            _, longer = self.lm.step(padded[:, u], state)
            state = longer.where(u < lengths, state)
        return state.split()

    def _finish(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Search to the end of ended utterances with all the weight of whole files, given what is committed."""
        utterances = [now[i].opened for i in rows]
        committed = [u.committed for u in utterances]
        frames = [max(round(u.samples / self.frame_samples), u.committed_frames) - u.released for u in utterances]
        encoded = self._encoded([u.encoder_out[:n] for u, n in zip(utterances, frames, strict=True)])
        found = self._search(encoded, committed, self.final)
        words = self._words(encoded, utterances, [best for best, *_ in found])
        for i, utterance, nbest, rest in zip(rows, utterances, found, words, strict=True):
            segment = utterance.segment(rest, nbest[0].score, self.model.config.frame_seconds)
            if self.final.nbest > 1:
                segment = replace(segment, alternatives=tuple(self._alternatives(utterance.committed, nbest)))
            if segment.words or utterance.shown:
                events[i].append(Final(segment, now[i].heard_seconds))
            now[i] = now[i].close(self._fresh)

    def _alternatives(self, committed: Committed, nbest: Sequence[Hypothesis]) -> Iterator[Alternative]:
        """The whole of a segment for each hypothesis of its end."""
        for hypothesis in nbest:
            text = self.recogniser.tokenizer.decode([*committed.tokens, *hypothesis.tokens])
            yield Alternative(text, committed.score + hypothesis.score)

    def _encoded(self, encoder_out: Sequence[Tensor]) -> Encoded:
        lengths = torch.tensor([len(x) for x in encoder_out], device=self.device)
        return Encoded(pad_sequence(list(encoder_out), batch_first=True), lengths)

    def _search(self, encoded: Encoded, committed: Sequence[Committed], config: SearchConfig) -> list[list[Hypothesis]]:
        prefix = self._prefix(committed, encoded)
        return beam_search(self.model, encoded, config, self.lm, prefix)

    def _trace(
        self, encoded: Encoded, committed: Sequence[Committed], tokens: Sequence[Sequence[int]]
    ) -> list[tuple[Tensor, DecoderState]]:
        """Spell tokens after the committed ones: at each, where the speller looks, and its state before it."""
        longest = max(map(len, tokens))
        padded = torch.tensor([[*t, *[SOS] * (longest - len(t))] for t in tokens], device=self.device)
        memory = self.model.decoder.prepare(*encoded)
        last, state, *_ = self._prefix(committed, encoded)
        traced: list[tuple[Tensor, DecoderState]] = []
        for u in range(longest):
            _, state = self.model.decoder.step(last, state, memory)
            last = padded[:, u]
            traced.append((state.alignment.mean(1).argmax(-1), state))
        return traced

    def _words(
        self,
        encoded: Encoded,
        utterances: Sequence[Utterance],
        found: Sequence[Hypothesis],
        peaks: Sequence[Sequence[int]] | None = None,
    ) -> list[list[TimedWord]]:
        """The words found after the committed ones, timed from the first frame of each utterance's encoder_out."""
        config, tokenizer = self.model.config, self.recogniser.tokenizer
        log_probs, lengths = self.model.ctc_log_probs(encoded.encoder_out).cpu(), encoded.encoder_out_lengths.tolist()
        words = []
        for row, (utterance, hypothesis, length) in enumerate(zip(utterances, found, lengths, strict=True)):
            level = utterance.level[utterance.released * config.encoder.reduction :]
            seconds = utterance.samples / SAMPLE_RATE - utterance.released * config.frame_seconds
            sound = Sound.of(config, log_probs[row, :length], level, seconds)
            start_frame = utterance.committed.end_frame
            words.append(time_words(tokenizer, hypothesis, sound, start_frame, peaks[row] if peaks else None))
        return words

    def _prefix(self, committed: Sequence[Committed], encoded: Encoded) -> Prefix:
        """What searches go on from, their alignments brought to the frames that there are."""
        frames = encoded.encoder_out.shape[1]
        last = torch.tensor([c.tokens[-1] if c.tokens else SOS for c in committed], device=self.device)
        first_frame = torch.tensor([c.end_frame for c in committed], device=self.device)
        rows = [Prefix(last, c.decoder, first_frame, self._word_starts).widened(frames).decoder for c in committed]
        decoder = DecoderState(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        # A cut may leave an utterance fewer frames than it was looked at with; others of the batch must not matter.
        within = torch.arange(frames, device=self.device) < encoded.encoder_out_lengths[:, None]
        decoder = decoder._replace(alignment=decoder.alignment * within[:, None])
        return Prefix(last, decoder, first_frame, self._word_starts, _stack_lm(committed))

    def _fresh_utterance(self) -> Utterance:
        model = self.model
        with torch.inference_mode():
            encoder_out = torch.zeros(0, model.config.encoder.output_size, device=self.device, dtype=model.dtype)
            one = torch.ones(1, dtype=torch.long, device=self.device)
            memory = model.decoder.prepare(encoder_out.new_zeros(1, 1, encoder_out.shape[1]), one)
            lm = self.lm.initial_state(1) if self.lm else None
            committed = Committed((), (), 0.0, model.decoder.initial_state(memory), 0, lm)
            features, encoder = model.features.initial_state(1), model.encoder.initial_state(1)
            recent, empty = encoder_out.new_zeros(1, 0, model.config.features.n_mels), torch.zeros(0)
            return Utterance(0, 0, empty, features, encoder, recent, empty, encoder_out, committed)

    def _placed(self, waveform: Tensor) -> Tensor:
        """Samples on the model's device, copied while the host goes on where that is a GPU."""
        return waveform if self.device.type == "cpu" else waveform.pin_memory().to(self.device, non_blocking=True)


def _stack_lm(committed: Sequence[Committed]) -> LmState | None:
    """The language model's states as one batch; None where there is none."""
    states = [c.lm for c in committed if c.lm is not None]
    return LmState.stack(states) if states else None
