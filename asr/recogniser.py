"""Audio to transcripts: read, cut at silence, batch by length, encode, search, time the words."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import checkpoint
from asr.audio import SAMPLE_RATE, Source, blocks, source_name
from asr.audio.segment import SegmentConfig, Span, split
from asr.config import SearchConfig, require
from asr.errors import AudioError, DeviceError, SpellstreamError
from asr.model.fast.fp16 import pack
from asr.model.internal_lm import DensityRatio, InternalLm
from asr.model.las import Model
from asr.model.lm import LanguageModel, TokenPredictor
from asr.search import Hypothesis, search
from asr.search.alignment import Sound, time_words
from asr.text.tokenizer import Tokenizer
from asr.transcript import Alternative, Segment, Transcript, Word

__all__ = ["DTYPES", "Outcome", "Recogniser", "resolve_device"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# How many batches' worth of spans are read ahead and sorted by length: more waste less on padding.
_BATCHES_AHEAD = 8


class Outcome(NamedTuple):
    """What became of one source: a transcript, or the error that says why there is none."""

    source: Any
    transcript: Transcript | None
    error: SpellstreamError | None  # with a transcript: what was wrong after that, where the damaged are kept


@dataclass
class _Job:
    """A source that is being worked on."""

    source: Any
    keep_damaged: bool = False
    segments: list[Segment] = field(default_factory=list)
    pending: int = 0  # spans that are read but not decoded
    samples: int = 0
    error: SpellstreamError | None = None
    damage: AudioError | None = None  # ended it early, and what came before is kept
    complete: bool = False  # all of it is read

    def outcome(self) -> Outcome:
        if self.error is not None:
            return Outcome(self.source, None, self.error)
        segments = tuple(sorted(self.segments, key=lambda s: s.start_seconds))
        transcript = Transcript(source_name(self.source), self.samples / SAMPLE_RATE, segments)
        return Outcome(self.source, transcript, self.damage)


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for; "auto" is a GPU where there is one.

    Raises:
        DeviceError: if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"{name}: no such device; there are auto, cpu and cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"{name}: no CUDA device can be used here; --device cpu works everywhere")
    return device


class Recogniser:
    """A model on a device, with all that is needed to turn audio into transcripts.

    Made by `asr.load`. It holds no state between calls, so one may serve any number of them, though not at once.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        device: torch.device,
        dtype: str,
        folder: Path,
        lm: LanguageModel | None,
        lm_folder: Path | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device, self.dtype, self.folder = device, dtype, folder
        self._lm, self._lm_folder = lm, lm_folder
        self._internal_lm: InternalLm | None = None

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        device: str = "auto",
        dtype: str = "float32",
        lm: str | Path | None = None,
    ) -> Recogniser:
        """Read a checkpoint and put it on a device; see `asr.load`."""
        if dtype not in DTYPES:
            raise DeviceError(f"{dtype}: no such dtype; there are {', '.join(DTYPES)}")
        place = resolve_device(device)
        loaded = checkpoint.load(model)
        network = pack(loaded.model.to(place).cast(DTYPES[dtype]))
        beside = loaded.folder if checkpoint.has_lm(loaded.folder) else None
        recogniser = cls(network, loaded.tokenizer, place, dtype, loaded.folder, None, Path(lm) if lm else beside)
        if lm is not None:  # what was asked for by name is looked at now
            recogniser._load_lm()
        return recogniser

    def language_model(self, search: SearchConfig) -> TokenPredictor | None:
        """What a search with these settings needs: none where `lm_weight` is 0. It is read when first asked for.

        Raises:
            CheckpointError: if it is broken, or over other tokens than the model.
            ConfigError: if it has a weight, but there is none.
        """
        if search.lm_weight == 0:
            return None
        if self._lm is None:
            require(
                self._lm_folder is not None,
                "lm_weight",
                search.lm_weight,
                f"0, as the model {self.folder.name} comes without a language model and no other was named",
            )
            self._load_lm()
        if self._lm is None or search.internal_lm_share == 0:
            return self._lm
        if self._internal_lm is None:
            self._internal_lm = pack(InternalLm(self.model.decoder))
        return DensityRatio(self._lm, self._internal_lm, search.internal_lm_share)

    def _load_lm(self) -> None:
        if self._lm_folder is not None:
            lm = checkpoint.load_lm(self._lm_folder, self.tokenizer)
            self._lm = pack(lm.to(self.device, DTYPES[self.dtype]))

    def transcribe(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
    ) -> Transcript:
        """Transcribe one source.

        Args:
            source: a path, "-" for standard input, a binary file object, or an array or tensor.
            sample_rate: of an array, in Hz; files bring their own.
            search: beam size and weights; the checkpoint's own if None.
            segment: where long audio is cut.
            word_timestamps: also find when each word was said.
            batch_size: how many spans of a long source are decoded at once.

        Raises:
            AudioError: if the source cannot be read.
        """
        read = blocks(source, sample_rate=sample_rate)
        (outcome,) = self._run([(source, read)], search, segment, word_timestamps, batch_size)
        if outcome.transcript is None:
            raise outcome.error or SpellstreamError(f"{source_name(source)}: no transcript")
        return outcome.transcript

    def transcribe_many(
        self,
        sources: Iterable[Source],
        *,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
        keep_damaged: bool = False,
    ) -> Iterator[Outcome]:
        """Transcribe many sources in flat memory, batched together by length.

        Each is yielded as soon as it is done, which is not their order. One that cannot be read yields an Outcome with
        its error and does not stop the others; with `keep_damaged`, also with what was said before the damage. The
        other arguments are those of `transcribe`.
        """
        readers = ((s, blocks(s, keep_damaged=keep_damaged)) for s in sources)
        return self._run(readers, search, segment, word_timestamps, batch_size, keep_damaged)

    def _run(
        self,
        readers: Iterable[tuple[Any, Generator[Tensor, None, None]]],
        search: SearchConfig | None,
        segment: SegmentConfig | None,
        word_timestamps: bool,
        batch_size: int,
        keep_damaged: bool = False,
    ) -> Iterator[Outcome]:
        require(batch_size > 0, "batch_size", batch_size, "positive")
        config = search or self.model.config.search
        waiting: list[tuple[_Job, Span]] = []
        for source, read in readers:
            job = _Job(source, keep_damaged)
            try:
                for span in split(_counted(read, job), segment):
                    job.pending += 1
                    waiting.append((job, span))
                    if len(waiting) >= batch_size * _BATCHES_AHEAD:
                        yield from self._drain(waiting, config, word_timestamps, batch_size)
                        waiting = []
            except SpellstreamError as error:
                job.error = error
            except Exception as error:
                job.error = _unexpected(source, error)
            job.complete = True
            if job.error is not None or job.pending == 0:
                waiting = [(j, s) for j, s in waiting if j is not job]
                yield job.outcome()
        yield from self._drain(waiting, config, word_timestamps, batch_size)

    def _drain(
        self, waiting: Sequence[tuple[_Job, Span]], config: SearchConfig, word_timestamps: bool, batch_size: int
    ) -> Iterator[Outcome]:
        """Decode all that waits, shortest first, and yield the sources that are done with it."""
        ordered = sorted(waiting, key=lambda pair: len(pair[1].waveform))
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            decoded = self._decode_each([span.waveform for _, span in batch], config, word_timestamps)
            for (job, span), segment in zip(batch, decoded, strict=True):
                job.pending -= 1
                if isinstance(segment, Exception):
                    job.error = job.error or _unexpected(job.source, segment)
                elif segment.text:
                    job.segments.append(segment.shifted(span.start_seconds))
                if job.complete and job.pending == 0:
                    yield job.outcome()

    def _decode_each(
        self, waveforms: Sequence[Tensor], config: SearchConfig, word_timestamps: bool
    ) -> list[Segment | Exception]:
        """`decode`, or one by one if the batch fails (out of memory); one that fails alone gives its exception."""
        try:
            return list(self.decode(waveforms, config, word_timestamps))
        except SpellstreamError:  # settings that do not fit the model: wrong for every source
            raise
        except Exception as error:
            if len(waveforms) == 1:
                return [error]
            return [one for waveform in waveforms for one in self._decode_each([waveform], config, word_timestamps)]

    @torch.inference_mode()
    def decode(self, waveforms: Sequence[Tensor], config: SearchConfig, word_timestamps: bool) -> list[Segment]:
        """One batch of waveforms `(samples,)`, each short enough for one go, to segments that start at 0."""
        padded = pad_sequence(list(waveforms), batch_first=True)
        samples = torch.tensor([len(w) for w in waveforms])
        if self.device.type == "cuda":
            padded = padded.pin_memory().to(self.device, non_blocking=True)
        features, feature_lengths = self.model.features(padded, samples.to(self.device))
        encoded = self.model.encode_features(features, feature_lengths)
        found = search(self.model, encoded, config, self.language_model(config))
        seconds = [n / SAMPLE_RATE for n in samples.tolist()]
        sounds: Sequence[Sound | None] = [None] * len(found)
        if word_timestamps:
            lengths: list[int] = encoded.encoder_out_lengths.tolist()
            log_probs = self.model.ctc_log_probs(encoded.encoder_out).cpu()
            levels = self.model.features.level(features).cpu()
            rows = zip(log_probs, levels, lengths, feature_lengths.tolist(), seconds, strict=True)
            sounds = [Sound.of(self.model.config, p[:n], level[:t], s) for p, level, n, t, s in rows]
        return [self._segment(*row, config.nbest) for row in zip(found, sounds, seconds, strict=True)]

    def _segment(self, found: list[Hypothesis], sound: Sound | None, seconds: float, nbest: int) -> Segment:
        best = found[0]
        words: tuple[Word, ...] = ()
        if sound is not None:
            timed = time_words(self.tokenizer, best, sound)
            words = tuple(Word(w.text, w.start_seconds, w.end_seconds, w.confidence) for w in timed)
        alternatives = (Alternative(self.tokenizer.decode(h.tokens), h.score) for h in found)
        text = self.tokenizer.decode(best.tokens)
        return Segment(text, 0.0, seconds, best.score, words, tuple(alternatives) if nbest > 1 else ())


def _counted(read: Generator[Tensor, None, None], job: _Job) -> Iterator[Tensor]:
    """Pass blocks on and note how long the source is; the reader is closed however this ends."""
    with contextlib.closing(read):
        try:
            for block in read:
                job.samples += len(block)
                yield block
        except Exception as error:
            known = error if isinstance(error, SpellstreamError) else _unexpected(job.source, error)
            if not (isinstance(known, AudioError) and job.keep_damaged and job.samples):
                raise known from known.__cause__
            job.damage = known


def _unexpected(source: Any, error: Exception) -> AudioError:
    """An exception of a library as one line for the source that caused it; the others go on."""
    known = AudioError(source_name(source), " ".join(f"{type(error).__name__}: {error}".split()))
    known.__cause__ = error
    return known
