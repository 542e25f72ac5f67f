"""Many streams stepped as one batch on one device: one detector, encoder and search step for all of them.

`Engine` holds the model and the settings; the state of a stream is its `Session`, which `step` takes and returns. A
microphone is an engine with one session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.audio import SAMPLE_RATE
from asr.audio.vad import WINDOW_SAMPLES, SpeechDetector, SpeechState
from asr.config import Context, SearchConfig, require
from asr.recogniser import Recogniser
from asr.search import Hypothesis, Spotter, Trace
from asr.transcript import Alternative, Segment
from asr.writing.hotwords import HotwordList, Hotwords
from asr.writing.parts import Style, check_style
from streaming.chunk_encoder import ChunkEncoder
from streaming.endpoint import EndpointConfig, EndpointState
from streaming.events import Event, Final, Partial
from streaming.open_segment import Committed, OpenSegment
from streaming.policy import PolicyConfig, committable, showable
from streaming.segment_search import Heard, Reached, SegmentSearch, batch_frames
from streaming.session import Session, check_chunk

__all__ = ["Engine", "StreamConfig"]

# The latest words still change: placing hotwords there would be repeated at every step.
_UNSURE_MS = 320


@dataclass(frozen=True)
class StreamConfig:
    """How streams are run.

        config = streaming.StreamConfig(endpoint=streaming.EndpointConfig(min_silence_ms=500))
        events = streaming.listen(config=config)

    Attributes:
        context: chunk and lookahead of the encoder; None: the model's own.
        endpoint: when segments begin and end.
        policy: when words are committed.
        overlap_ms: audio before a new chunk that is encoded again with it, rounded up to whole chunks. All but the
            latest words are thereby recognised with the audio that follows them, at no extra latency.
        partial_beam_size: beam of the search while a segment is open.
        final: search at the end of a segment; None: the model's own, skipped if CTC's greedy output is unchanged since
            the latest partial search, whose words are then final. With several `alternatives` it always runs.
        alternatives: number of hypotheses of a finished segment, the best included. They differ only after the
            committed words.
        style: "written", with capitals, punctuation and digits, or "spoken", as recognised, in lower case.

    Raises:
        ConfigError: a setting is out of its bounds.
    """

    context: Context | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    overlap_ms: int = 1200
    partial_beam_size: int = 8
    final: SearchConfig | None = None
    alternatives: int = 1
    style: Style = "written"

    def __post_init__(self) -> None:
        check_style(self.style)
        require(0 <= self.overlap_ms <= 10_000, "overlap_ms", self.overlap_ms, "in 0..10000")
        require(self.alternatives >= 1, "alternatives", self.alternatives, "at least 1")
        require(1 <= self.partial_beam_size <= 256, "partial_beam_size", self.partial_beam_size, "in 1..256")


class Engine:
    """Steps any number of streams as one batch.

        engine = streaming.Engine(asr.load("default"))
        sessions = [engine.start() for _ in range(2)]
        sessions, events = engine.step(sessions, [chunk_a, chunk_b])
        sessions, events = engine.step(sessions, [nothing, nothing], final=[True, True])  # nothing = torch.zeros(0)

    The events of a stream depend neither on how its audio is cut into chunks nor on the other streams.

    Args:
        recogniser: the model, on its device.
        config: the settings of all sessions; None: `StreamConfig()`.

    Raises:
        CheckpointError: the language model is broken.
        ConfigError: the context is not bounded, or a language model that does not exist is given a weight.
    """

    def __init__(self, recogniser: Recogniser, config: StreamConfig | None = None) -> None:
        self.recogniser, self.config = recogniser, config or StreamConfig()
        self.model, self.device, settings = recogniser.model, recogniser.device, recogniser.model.config
        self.frame_samples = settings.frame_seconds * SAMPLE_RATE

        final = self.config.final or settings.search
        self.final = replace(final, nbest=min(self.config.alternatives, final.beam_size))
        self.reuse = self.config.final is None and self.final.nbest == 1  # of the latest search, at the end
        # The audio so far is no whole sentence. An improbable eos must not keep the decoder going, and CTC, which does
        # not model the end of a sentence, gets more weight.
        unfinished = replace(final, nbest=1, eos_threshold=0.0, ctc_weight=max(0.5, final.ctc_weight))
        self.partial = replace(unfinished, beam_size=self.config.partial_beam_size, coverage_penalty=0.0)

        self.detector = SpeechDetector(self.device)
        context = self.config.context or settings.streaming
        self.encoder = ChunkEncoder(self.model, context, self.config.overlap_ms)
        step_ms = self.encoder.chunk_samples * 1000 // SAMPLE_RATE
        unsure_ms = min(_UNSURE_MS, self.config.policy.earliest_ms(step_ms))
        self.search = SegmentSearch(recogniser, recogniser.language_model(self.final), unsure_ms)
        self.writer = recogniser.writer
        self._fresh = self._fresh_segment()

    def __reduce__(self) -> tuple[object, ...]:
        """Another process loads the model again."""
        return Engine, (self.recogniser, self.config)

    @property
    def chunk_samples(self) -> int:
        """Audio samples that are encoded at a time."""
        return self.encoder.chunk_samples

    @property
    def latency_ms(self) -> float:
        """Audio needed for the first frames: a chunk, the lookahead and the rest of the features' window."""
        return self.encoder.latency_ms

    def start(self, hotwords: HotwordList = None, style: Style | None = None) -> Session:
        """The state of a new stream.

        Args:
            hotwords: names and terms to listen for, as in `Recogniser.transcribe`; each stream may have its own.
            style: of the text; None: that of the settings.

        Raises:
            ConfigError: a hotword is wrong, or has characters that the model cannot spell; or there is no such style.
        """
        check_style(style := self.config.style if style is None else style)
        found = Hotwords.of(hotwords)
        greedy = 1 in (self.partial.beam_size, self.final.beam_size)
        require(not (greedy and found), "beam_size", 1, "at least 2 with hotwords")
        fresh = Session(torch.zeros(0), 0, SpeechState.start(1, self.device), EndpointState())
        return replace(fresh, hotwords=found, spotter=self.recogniser.spell(found), style=style)

    @torch.inference_mode()
    def step(
        self, sessions: Sequence[Session], chunks: Sequence[Tensor], final: Sequence[bool] | None = None
    ) -> tuple[list[Session], list[list[Event]]]:
        """Advance streams by the audio that has arrived.

        Args:
            sessions: any number of streams.
            chunks: the audio of each, 16 kHz mono float32 `(samples,)` on the CPU, of any length, 0 included.
            final: for each, whether it ends with this chunk, which finishes its open segment; None: none does.

        Returns:
            The sessions after the step, and for each its events in order.

        Raises:
            AudioError: a chunk is of another type, or a sample in it is NaN or infinite. No session has advanced.
        """
        ends = list(final or [False] * len(sessions))
        for i, chunk in enumerate(chunks):
            check_chunk(chunk, f"stream {i}")
        now = [s.receive(c) for s, c in zip(sessions, chunks, strict=True)]
        events: list[list[Event]] = [[] for _ in now]

        # Each stream is heard until its model has work to do; there it waits for the others, so that they are encoded
        # and searched together.
        heard = self._hear(now, ends)
        due: set[int] = set()
        while True:
            ready = [i for i, windows in heard.items() if windows and i not in due]
            if ready:
                for i in ready:
                    missing = self.encoder.missing(now[i].segment)
                    now[i], count = now[i].hear(
                        heard[i], self.config.endpoint, self._fresh, self.frame_samples, missing
                    )
                    for _ in range(count):
                        heard[i].popleft()
                due |= {i for i in ready if self.encoder.due(now[i].segment) is not None}
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

    def _hear(self, now: list[Session], ends: Sequence[bool]) -> dict[int, deque[float]]:
        """The speech probability of each window that a stream has audio for; the last of a stream may be shorter."""
        lengths = [len(session.unread) for session in now]
        counts = [-(-n // WINDOW_SAMPLES) if end else n // WINDOW_SAMPLES for n, end in zip(lengths, ends, strict=True)]
        rows = [i for i, count in enumerate(counts) if count]
        if not rows:
            return {}
        longest = max(counts) * WINDOW_SAMPLES
        audio = torch.stack([pad(now[i].unread[:longest], (0, max(0, longest - lengths[i]))) for i in rows])
        windows, count = audio.unflatten(1, (-1, WINDOW_SAMPLES)), torch.tensor([counts[i] for i in rows])
        speech = SpeechState.stack([now[i].speech for i in rows])
        probabilities, speech = self.detector.run(self.encoder.on_device(windows), count, speech)
        heard = {}
        for i, found, state in zip(rows, probabilities.tolist(), speech.split(), strict=True):
            now[i] = replace(now[i], speech=state)
            heard[i] = deque(found[: counts[i]])
        return heard

    def _advance(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Encode complete chunks, search where there are new frames, and finish segments that have ended."""
        open_rows = [i for i in rows if now[i].segment is not None]
        segments, grown = self.encoder.encode([now[i].open_segment for i in open_rows])
        for i, segment in zip(open_rows, segments, strict=True):
            now[i] = replace(now[i], segment=segment)

        if going := [i for i, new in zip(open_rows, grown, strict=True) if new and not now[i].open_segment.ended]:
            self._show(now, going, events)
        if ended := [i for i in open_rows if now[i].open_segment.ended]:
            self._finish(now, ended, events)

    def _show(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Search from the committed words on, commit the sure words, and yield a partial if words have changed."""
        segments = [now[i].open_segment for i in rows]
        encoded = batch_frames([s.encoder_out for s in segments])
        committed, policy = [s.committed for s in segments], self.config.policy

        heard = self.search.hear(encoded)
        found, reached = self._find(segments, heard, [now[i].spotter for i in rows])
        peaks = self.search.attention_peaks(encoded, committed, found) if policy.kind == "attention" else None
        words = self.search.time(heard, segments, found, peaks, reached)

        frame_ms = self.model.encoder.frame_ms
        rules = [
            (found_words, segment.tentative, len(segment.encoder_out), frame_ms, policy)
            for found_words, segment in zip(words, segments, strict=True)
        ]
        counts, visible = [committable(*rule) for rule in rules], [showable(*rule) for rule in rules]
        after = self.search.commit(encoded, segments, found, words, counts, reached)
        ends = [w[n - 1].last_frame if n else c.end_frame for w, n, c in zip(words, counts, committed, strict=True)]
        outlines = self.search.outlines(heard, ends)

        said: dict[int, Partial] = {}
        for row, (i, before) in enumerate(zip(rows, segments, strict=True)):
            count = counts[row]
            rest = words[row][count : visible[row]]
            shown = replace(
                after[row],
                outline=outlines[row],
                hotwords=way.hotwords if (way := reached[row]) else before.hotwords,
                latest=found[row].after(words[row][count - 1].tokens) if count else found[row],
                tentative=tuple(w.text for w in words[row][count:]),
                visible=tuple(w.text for w in rest),
                shown=before.shown or bool(count or rest),
            )
            if shown.visible != before.visible or count:
                times = before.words(rest, self.model.config.frame_seconds)
                said[i] = Partial(shown.committed.words, times, now[i].heard_seconds)
            now[i] = replace(now[i], segment=shown)
        for i, partial in self._written(now, said).items():
            events[i].append(partial)

    def _find(
        self, segments: Sequence[OpenSegment], heard: Heard, lists: Sequence[Spotter | None]
    ) -> tuple[list[Hypothesis], list[Reached | None]]:
        """The best continuation of each segment's committed words, and its place in the search's trace.

        The latest one is reused without a search if CTC's greedy output is unchanged and no word waits for hotwords.
        """
        committed, known = [s.committed for s in segments], self._known(segments, heard)
        reached: list[Reached | None] = [None] * len(segments)
        if moved := [i for i, latest in enumerate(known) if latest is None]:
            some, trace = batch_frames([segments[i].encoder_out for i in moved]), Trace()
            spotters, hotwords = [lists[i] for i in moved], [segments[i].hotwords for i in moved]
            nbest = self.search.find(some, [committed[i] for i in moved], self.partial, spotters, trace, hotwords)
            for row, (i, (best, *_)) in enumerate(zip(moved, nbest, strict=True)):
                known[i], reached[i] = best, Reached(trace, row)
        return [latest for latest in known if latest is not None], reached

    def _known(self, segments: Sequence[OpenSegment], heard: Heard) -> list[Hypothesis | None]:
        """The latest hypothesis where CTC's greedy output is unchanged and no word waits for hotwords, else None."""
        outlines = self.search.outlines(heard, [s.committed.end_frame for s in segments])
        pairs = zip(segments, outlines, strict=True)
        return [s.latest if s.outline == outline and not s.hotwords.waiting else None for s, outline in pairs]

    def _written(self, now: Sequence[Session], said: dict[int, Partial]) -> dict[int, Partial]:
        """The partials, with written text for streams in the written style."""
        rows = [i for i in said if now[i].style == "written"]
        words = [(*said[i].committed, *said[i].tentative) for i in rows]
        texts = self.writer.partial(words, [now[i].context for i in rows], [now[i].hotwords for i in rows])
        return said | {i: replace(said[i], written=text) for i, text in zip(rows, texts, strict=True)}

    def _finish(self, now: list[Session], rows: list[int], events: list[list[Event]]) -> None:
        """Finish ended segments: search from the committed words on, unless the latest search can be reused."""
        segments = [now[i].open_segment for i in rows]
        committed = [s.committed for s in segments]
        frames = [max(round(s.samples / self.frame_samples), s.committed_frames) - s.released for s in segments]
        parts = [s.encoder_out[:n] for s, n in zip(segments, frames, strict=True)]
        heard = self.search.hear(batch_frames(parts))

        # In the silence at its end, a segment has often been searched already.
        known = self._known(segments, heard) if self.reuse else [None] * len(rows)
        found = [[latest] if latest else [] for latest in known]
        if left := [row for row, latest in enumerate(known) if latest is None]:
            encoded, spotters = batch_frames([parts[row] for row in left]), [now[rows[row]].spotter for row in left]
            new = self.search.find(encoded, [committed[row] for row in left], self.final, spotters)
            for row, nbest in zip(left, new, strict=True):
                found[row] = nbest
        words = self.search.time(heard, segments, [best for best, *_ in found])

        said: dict[int, Segment] = {}
        for i, segment, nbest, rest in zip(rows, segments, found, words, strict=True):
            finished = segment.finished(rest, nbest[0].score, self.model.config.frame_seconds)
            if self.final.nbest > 1:
                finished = replace(finished, alternatives=tuple(self._alternatives(segment.committed, nbest)))
            if finished.words or segment.shown:
                said[i] = finished

        written = [i for i in said if now[i].style == "written"]
        contexts, names = [now[i].context for i in written], [now[i].hotwords for i in written]
        texts = self.writer.write([said[i] for i in written], contexts, names)
        for i, (finished, context) in zip(written, texts, strict=True):
            said[i], now[i] = finished, replace(now[i], context=context)
        for i in rows:
            if i in said:
                events[i].append(Final(said[i], now[i].heard_seconds))
            now[i] = now[i].close(self._fresh)

    def _alternatives(self, committed: Committed, nbest: Sequence[Hypothesis]) -> Iterator[Alternative]:
        """The text of the whole segment for each hypothesis of its uncommitted rest."""
        for hypothesis in nbest:
            text = self.recogniser.tokenizer.decode([*committed.tokens, *hypothesis.tokens])
            yield Alternative(text, committed.score + hypothesis.score)

    @torch.inference_mode()
    def _fresh_segment(self) -> OpenSegment:
        """An empty segment."""
        model, nothing = self.model, torch.zeros(0)
        encoder_out = torch.zeros(0, model.config.encoder.output_size, device=self.device, dtype=model.dtype)
        committed = self.search.nothing_committed()
        carried, speech_db = self.encoder.start(), model.config.speech_db
        return OpenSegment(0, 0, nothing, carried, nothing, encoder_out, committed, speech_db)
