"""Search in open segments, from their committed words on, many segments as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.audio import SAMPLE_RATE
from asr.config import SearchConfig
from asr.model.decoder import DecoderState
from asr.model.las import Encoded
from asr.model.lm import LmState, TokenPredictor
from asr.recogniser import Recogniser
from asr.search import Earlier, HotwordState, Hypothesis, Prefix, Spotter, Trace, beam_search, place_hotwords
from asr.search.alignment import Sound, TimedWord, time_words
from asr.text.tokenizer import BLANK, EOS, SOS
from streaming.open_segment import Committed, OpenSegment

__all__ = ["Heard", "Reached", "SegmentSearch", "batch_frames"]

# Encoder output kept before the end of the committed words, so that attention can find its place.
_KEEP_SECONDS = 0.6


def batch_frames(encoder_out: Sequence[Tensor]) -> Encoded:
    """Encoder outputs `(T, D)` as one padded batch."""
    lengths = torch.tensor([len(x) for x in encoder_out], device=encoder_out[0].device)
    return Encoded(pad_sequence(list(encoder_out), batch_first=True), lengths)


class Heard(NamedTuple):
    """Output of the CTC head for segments, on the CPU."""

    log_probs: Tensor  # (B, T, V)
    best: Tensor  # (B, T): the most likely token of each frame
    lengths: list[int]


class Reached(NamedTuple):
    """The best hypothesis of a segment in the trace of its search."""

    trace: Trace
    row: int  # of the segment in the search

    @property
    def hotwords(self) -> HotwordState:
        """The state of the hotwords after the search."""
        return self.trace.hotwords.get(self.row, HotwordState())

    @property
    def spans(self) -> Sequence[tuple[int, int]] | None:
        """The frames of the hypothesis's tokens, after the committed words; None if they are not known."""
        return self.trace.spans.get(self.row)

    def state(self, tokens: Sequence[int]) -> tuple[DecoderState, LmState | None] | None:
        """One-row states before the last of `tokens`, the first of the hypothesis; None if the trace has none."""
        rows = self.trace.path(self.row, tokens).rows
        if len(rows) <= len(tokens):
            return None
        passed, row = self.trace.passed[len(tokens)], rows[-1]
        states = (state for state in passed.full if isinstance(state, LmState))
        lm = next((state.row(row).map(Tensor.clone) for state in states), None)
        return DecoderState(*(x[row : row + 1].clone() for x in passed.decoder)), lm


class SegmentSearch:
    """Finds, times and commits words after the committed ones.

    Args:
        recogniser: the model and its tokenizer.
        lm: the language model; None: there is none.
        unsure_ms: length of the end of an open segment in which no hotwords are placed yet.
    """

    def __init__(self, recogniser: Recogniser, lm: TokenPredictor | None, unsure_ms: int) -> None:
        self.unsure_frames = round(unsure_ms / 1000 / recogniser.model.config.frame_seconds)
        self.model, self.device = recogniser.model, recogniser.device
        self.tokenizer, self.lm = recogniser.tokenizer, lm
        self._word_starts = torch.tensor(recogniser.tokenizer.word_starts, device=self.device)

    def nothing_committed(self) -> Committed:
        """The start of a segment."""
        size = self.model.config.encoder.output_size
        encoder_out = torch.zeros(1, 1, size, device=self.device, dtype=self.model.dtype)
        memory = self.model.decoder.prepare(encoder_out, torch.ones(1, dtype=torch.long, device=self.device))
        lm = self.lm.initial_state(1) if self.lm else None
        return Committed((), (), 0.0, self.model.decoder.initial_state(memory), 0, lm)

    def find(
        self,
        encoded: Encoded,
        committed: Sequence[Committed],
        config: SearchConfig,
        hotwords: Sequence[Spotter | None] = (),
        trace: Trace | None = None,
        open_hotwords: Sequence[HotwordState] = (),
    ) -> list[list[Hypothesis]]:
        """The n-best continuations of the committed words of each segment, best first; `trace` gets the states.

        `open_hotwords` is the hotword state of each open segment after its previous search: at the end of these
        segments, where words still change, no hotwords are placed yet. Empty: the segments have ended.
        """
        prefix = self._prefix(committed, encoded)
        trace = Trace() if trace is None and any(hotwords) else trace
        found = beam_search(self.model, encoded, config, self.lm, prefix, trace)
        if trace is None or not any(hotwords):
            return found
        earlier = [Earlier(c.tokens) for c in committed]
        if open_hotwords:
            pairs = zip(committed, open_hotwords, strict=True)
            earlier = [Earlier(c.tokens, self.unsure_frames, one.scores) for c, one in pairs]
        return place_hotwords(self.model, encoded, found, trace, hotwords, config, self.lm, prefix, earlier)

    def hear(self, encoded: Encoded) -> Heard:
        """Output of the CTC head for the frames."""
        log_probs = self.model.ctc_log_probs(encoded.encoder_out).cpu()
        return Heard(log_probs, log_probs.argmax(-1), encoded.encoder_out_lengths.tolist())

    def outlines(self, heard: Heard, first_frames: Sequence[int]) -> list[tuple[int, ...]]:
        """CTC's greedy output for each segment from a frame on, without repetitions and blanks."""
        rows = zip(heard.best, first_frames, heard.lengths, strict=True)
        paths = (row[first:length].unique_consecutive().tolist() for row, first, length in rows)
        return [tuple(token for token in path if token != BLANK) for path in paths]

    def time(
        self,
        heard: Heard,
        segments: Sequence[OpenSegment],
        found: Sequence[Hypothesis],
        peaks: Sequence[Sequence[int]] | None = None,
        reached: Sequence[Reached | None] = (),
    ) -> list[list[TimedWord]]:
        """The words found after the committed ones, timed from the first frame of each segment's encoder_out.

        Those that the hotwords have aligned in the search (`reached`) are not aligned again.
        """
        config = self.model.config
        words = []
        for row, (segment, hypothesis, length) in enumerate(zip(segments, found, heard.lengths, strict=True)):
            level = segment.level[segment.released * config.encoder.reduction :]
            seconds = segment.samples / SAMPLE_RATE - segment.released * config.frame_seconds
            sound = Sound.of(config, heard.log_probs[row, :length], level, seconds)
            start_frame, peak = segment.committed.end_frame, peaks[row] if peaks else None
            spans = way.spans if reached and (way := reached[row]) else None
            words.append(time_words(self.tokenizer, hypothesis, sound, start_frame, peak, spans))
        return words

    def attention_peaks(
        self, encoded: Encoded, committed: Sequence[Committed], found: Sequence[Hypothesis]
    ) -> list[list[int]]:
        """For each token of each hypothesis, the frame at which the decoder's attention is highest."""
        traced = self._trace(encoded, committed, [h.tokens for h in found])
        if not traced:
            return [[] for _ in found]
        return [torch.stack([peak[row] for peak, _ in traced]).tolist() for row in range(len(found))]

    def commit(
        self,
        encoded: Encoded,
        segments: Sequence[OpenSegment],
        found: Sequence[Hypothesis],
        words: Sequence[Sequence[TimedWord]],
        counts: Sequence[int],
        reached: Sequence[Reached | None],
    ) -> list[OpenSegment]:
        """The segments with the first `counts` of their `words` committed.

        Their decoder states come from the trace of the search (`reached`) where it has them, else from decoding them
        again.
        """
        after = list(segments)
        if not (rows := [row for row, count in enumerate(counts) if count]):
            return after

        sure = {row: found[row].tokens[: words[row][counts[row] - 1].tokens] for row in rows}
        states = {row: one.state(sure[row]) for row in rows if (one := reached[row])}
        known = {row: state for row, state in states.items() if state is not None}
        unknown = [row for row in rows if row not in known]
        known |= zip(unknown, self._states(encoded, segments, unknown, [sure[row] for row in unknown]), strict=True)

        seconds = self.model.config.frame_seconds
        keep_frames = round(_KEEP_SECONDS / seconds)
        for row in rows:
            new, (decoder, lm) = words[row][: counts[row]], known[row]
            after[row] = segments[row].commit(found[row], new, decoder, seconds, keep_frames, lm)
        return after

    def _states(
        self, encoded: Encoded, segments: Sequence[OpenSegment], rows: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> list[tuple[DecoderState, LmState | None]]:
        """The states of some segments before the last of `tokens`, decoded after the committed tokens."""
        if not rows:
            return []
        some, committed = Encoded(*(x[list(rows)] for x in encoded)), [segments[row].committed for row in rows]
        traced, lm_states = self._trace(some, committed, tokens), self._lm_states(committed, tokens)
        found = []
        for place, (spelled, lm) in enumerate(zip(tokens, lm_states, strict=True)):
            decoder = DecoderState(*(x[place : place + 1].clone() for x in traced[len(spelled) - 1][1]))
            found.append((decoder, lm))
        return found

    def _trace(
        self, encoded: Encoded, committed: Sequence[Committed], tokens: Sequence[Sequence[int]]
    ) -> list[tuple[Tensor, DecoderState]]:
        """Decode given tokens after the committed ones: for each, the attention peak and the state before it."""
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

    def _lm_states(self, committed: Sequence[Committed], tokens: Sequence[Sequence[int]]) -> Sequence[LmState | None]:
        """One-row states of the language model before the last of `tokens`, which follow the committed tokens."""
        if self.lm is None or (state := _stack_lm(committed)) is None:
            return [None] * len(committed)
        read = [[c.tokens[-1] if c.tokens else SOS, *t[:-1]] for c, t in zip(committed, tokens, strict=True)]
        longest, lengths = max(map(len, read)), torch.tensor([len(r) for r in read], device=self.device)
        padded = torch.tensor([[*r, *[EOS] * (longest - len(r))] for r in read], device=self.device)
        for u in range(longest):
            _, longer = self.lm.step(padded[:, u], state)
            state = longer.where(u < lengths, state)
        return state.split()

    def _prefix(self, committed: Sequence[Committed], encoded: Encoded) -> Prefix:
        """The prefix that a search continues, with alignments as long as the batch's frames."""
        frames = encoded.encoder_out.shape[1]
        last = torch.tensor([c.tokens[-1] if c.tokens else SOS for c in committed], device=self.device)
        first_frame = torch.tensor([c.end_frame for c in committed], device=self.device)
        rows = [Prefix(last, c.decoder, first_frame, self._word_starts).widened(frames).decoder for c in committed]
        decoder = DecoderState(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

        # After a cut, an alignment may be longer than its segment. Its weights in the padding of the batch must be 0,
        # since the length of the padding depends on the other segments.
        within = torch.arange(frames, device=self.device) < encoded.encoder_out_lengths[:, None]
        alignment = decoder.alignment * within[:, None]
        if self.model.config.attention.start == "uniform":  # over all frames so far
            even = within / encoded.encoder_out_lengths.clamp(min=1)[:, None]
            begun = torch.tensor([bool(c.tokens) for c in committed], device=self.device)
            alignment = torch.where(begun[:, None, None], alignment, even[:, None].to(alignment.dtype))
        decoder = decoder._replace(alignment=alignment)
        return Prefix(last, decoder, first_frame, self._word_starts, _stack_lm(committed))


def _stack_lm(committed: Sequence[Committed]) -> LmState | None:
    """The language model's states as one batch; None if there is no language model."""
    states = [c.lm for c in committed if c.lm is not None]
    return LmState.stack(states) if states else None
