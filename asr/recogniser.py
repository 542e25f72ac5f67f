"""Audio to transcripts: reading, segmentation, batching by length, encoding, search, word times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr import checkpoint
from asr.audio import SAMPLE_RATE, Source, Track, blocks, source_name
from asr.audio.segment import SegmentConfig, split
from asr.batches import Batches
from asr.config import SearchConfig, require
from asr.decoding import decode_steps
from asr.errors import DeviceError, SpellstreamError
from asr.folders import find_lm
from asr.jobs import Decoding, Job, Outcome, unexpected
from asr.model.fast import bf16
from asr.model.fast.fp16 import pack
from asr.model.fast.int8_lm import Lm8, quick, quick_internal
from asr.model.internal_lm import DensityRatio, InternalLm
from asr.model.las import Model
from asr.model.lm import LanguageModel, TokenPredictor
from asr.processes import Processes
from asr.search import Spotter
from asr.search.spotting import spell
from asr.steps import Steps, finish
from asr.text.tokenizer import Tokenizer
from asr.transcript import Segment, Transcript
from asr.writing.hotwords import HotwordList, Hotwords
from asr.writing.parts import Style, check_style
from asr.writing.writer import Context, Writer

__all__ = ["DTYPES", "Outcome", "Recogniser", "resolve_device"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device for a name such as "cpu" or "cuda"; "auto" is a GPU if there is one.

    Raises:
        DeviceError: the device is not available.
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
    """A model on a device, which turns audio into transcripts; made by `asr.load`.

        recogniser = asr.load("default")
        transcript = recogniser.transcribe("talk.wav")
        for segment in recogniser.segments("lecture.mp4", progress=print):
            print(segment.start_seconds, segment.text)

    It keeps no state between calls; use one recogniser for any number of calls, one at a time.
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
        self._lm: TokenPredictor | None = lm
        self._lm_folder = lm_folder
        self._internal_lm: InternalLm | Lm8 | None = None
        self._writer: Writer | None = None

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        device: str = "auto",
        dtype: str = "float32",
        lm: str | Path | None = None,
    ) -> Recogniser:
        """Load a model and put it on a device; the arguments and errors are those of `asr.load`."""
        if dtype not in DTYPES:
            raise DeviceError(f"{dtype}: no such dtype; there are {', '.join(DTYPES)}")
        place = resolve_device(device)
        loaded = checkpoint.load(model)
        network = loaded.model.to(place).cast(DTYPES[dtype])
        network.encoder.quicken()  # first: what runs in bfloat16 is not packed in float16
        pack(network)
        beside = loaded.folder if checkpoint.has_lm(loaded.folder) else None
        recogniser = cls(network, loaded.tokenizer, place, dtype, loaded.folder, None, find_lm(lm) if lm else beside)
        if lm is not None:  # a named one is checked now, the model's own only when a search needs it
            recogniser._load_lm()
        return recogniser

    def __reduce__(self) -> tuple[object, ...]:
        """Another process loads the model from its folder: packed weights cannot be copied."""
        again = partial(Recogniser.load, self.folder, device=str(self.device), dtype=self.dtype, lm=self._lm_folder)
        return again, ()

    def language_model(self, search: SearchConfig) -> TokenPredictor | None:
        """The language model for a search, read when first needed; None if `lm_weight` is 0.

        Raises:
            CheckpointError: it is broken, or its tokens differ from the model's.
            ConfigError: `lm_weight` is above 0 but there is no language model.
        """
        if search.lm_weight == 0:
            return None
        if self._lm is None:
            require(
                self._lm_folder is not None,
                "lm_weight",
                search.lm_weight,
                f"0, since the model {self.folder.name} has no language model and none was named",
            )
            self._load_lm()
        if self._lm is None or search.internal_lm_share == 0:
            return self._lm
        if self._internal_lm is None:
            self._internal_lm = quick_internal(pack(InternalLm(self.model.decoder)), self._lm.config)
        return DensityRatio(self._lm, self._internal_lm, search.internal_lm_share)

    def spell(self, hotwords: Hotwords | None) -> Spotter | None:
        """Hotwords in the form that the search needs.

        Raises:
            ConfigError: a phrase has characters that the model cannot spell.
        """
        return spell(hotwords, self.tokenizer) if hotwords else None

    def _load_lm(self) -> None:
        if self._lm_folder is not None:
            lm = checkpoint.load_lm(self._lm_folder, self.tokenizer)
            self._lm = quick(pack(lm.to(self.device, DTYPES[self.dtype])))

    @property
    def writer(self) -> Writer:
        """The writer that converts recognised words to written text, loaded on first use.

        For a model without a punctuation model, it converts names and numbers only.
        """
        if self._writer is None:
            tagger = checkpoint.load_punctuation(self.folder) if checkpoint.has_punctuation(self.folder) else None
            if tagger is not None:
                bf16.pack(tagger.network)
            self._writer = Writer(tagger)
        return self._writer

    def transcribe(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
        track: Track = None,
        hotwords: HotwordList = None,
        style: Style = "written",
    ) -> Transcript:
        """Transcribe one source.

            recogniser.transcribe("talk.wav").text
            recogniser.transcribe(samples, 44_100).words  # an array `(samples,)` or `(channels, samples)`

        Args:
            source: a path, "-" for standard input, a binary file object, or an array or tensor of samples:
                `(samples,)`, or two-dimensional with the shorter side as channels; floats in [-1, 1] or integers.
            sample_rate: of an array, in Hz; files have their own.
            search: beam size and weights; the model's own if None.
            segment: where long audio is cut into segments; the defaults if None.
            word_timestamps: also find when each word was said.
            batch_size: segments decoded together.
            track: which audio track of a file, see `asr.audio.blocks`.
            hotwords: names and terms to listen for: a list such as "Nextcloud, Siobhán:1.5" (1.5 is a weight), the
                `Path` of a file with a phrase on each line, or phrases.
            style: "written", with capitals, punctuation and digits, or "spoken", as recognised, in lower case. A
                segment with written text also has the spoken words, see `Segment`.

        Raises:
            AudioError: the source cannot be read, or not to its end.
            ConfigError: a setting is out of bounds, or a hotword has characters that the model cannot spell.
        """
        decoding = self._decoding(search, segment, word_timestamps, batch_size, hotwords, style)
        read = blocks(source, sample_rate=sample_rate, track=track)
        (outcome,) = self._batches(decoding).run([(source, read)])
        if outcome.transcript is None:
            raise outcome.error or SpellstreamError(f"{source_name(source)}: no transcript")
        return outcome.transcript

    def segments(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
        progress: Callable[[float], object] | None = None,
        track: Track = None,
        hotwords: HotwordList = None,
        style: Style = "written",
    ) -> Iterator[Segment]:
        """Transcribe a long source, yielding each segment as soon as it is decoded.

            for segment in recogniser.segments("lecture.mp4", progress=lambda seconds: print(f"{seconds:.0f} s")):
                print(segment.text)

        Args:
            source, sample_rate, search, segment, word_timestamps, batch_size, track, hotwords, style: as in
                `transcribe`. A smaller batch yields sooner, but takes longer in total.
            progress: called with the seconds of the source done so far, after each batch and at the end.

        Yields:
            Segments in order, none without text.

        Raises:
            AudioError: the source cannot be read, or not to its end; the segments before that have been yielded.
            ConfigError: a setting is out of bounds.
        """
        decoding = self._decoding(search, segment, word_timestamps, batch_size, hotwords, style)
        job, context, batches = Job(source, keep_damaged=True), Context(), self._batches(decoding)
        spans = split(job.read(blocks(source, sample_rate=sample_rate, track=track)), segment)
        while batch := list(itertools.islice(spans, batch_size)):
            decoded = batches.decode([span.waveform for span in batch])
            for span, found in zip(batch, decoded, strict=True):
                if isinstance(found, Exception):
                    raise unexpected(source, found)
                if found.text:
                    said = found.shifted(span.start_seconds)
                    if decoding.writer is not None:
                        ((said, context),) = decoding.writer.write([said], [context], [decoding.hotwords])
                    yield said
            if progress is not None:
                progress(batch[-1].start_seconds + len(batch[-1].waveform) / SAMPLE_RATE)
        if job.damage is not None:
            raise job.damage
        if progress is not None:
            progress(job.samples / SAMPLE_RATE)

    def transcribe_many(
        self,
        sources: Iterable[Source],
        *,
        search: SearchConfig | None = None,
        segment: SegmentConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
        keep_damaged: bool = False,
        track: Track = None,
        hotwords: HotwordList = None,
        style: Style = "written",
        processes: Processes | None = None,
    ) -> Iterator[Outcome]:
        """Transcribe many sources in constant memory, in batches of similar length across sources.

            for source, transcript, error in recogniser.transcribe_many(["a.wav", "b.mp3"]):
                print(source, transcript.text if transcript else error)

        Args:
            sources: as in `transcribe`; arrays must be at 16 kHz.
            search, segment, word_timestamps, batch_size, track, hotwords, style: as in `transcribe`.
            keep_damaged: also transcribe the readable part of a damaged file.
            processes: decode in place of threads.

        Yields:
            An `Outcome` for each source as soon as it is done, in any order. A source that cannot be read yields its
            error and does not stop the others.

        Raises:
            ConfigError: a setting is out of bounds.
        """
        rates = ((s, SAMPLE_RATE if isinstance(s, (np.ndarray, Tensor)) else None) for s in sources)
        readers = ((s, blocks(s, sample_rate=r, keep_damaged=keep_damaged, track=track)) for s, r in rates)
        decoding = self._decoding(search, segment, word_timestamps, batch_size, hotwords, style)
        return self._batches(decoding, processes).run(readers, keep_damaged)

    def _decoding(
        self,
        search: SearchConfig | None,
        segment: SegmentConfig | None,
        word_timestamps: bool,
        batch_size: int,
        hotwords: HotwordList,
        style: Style,
    ) -> Decoding:
        check_style(style)
        found, writer = Hotwords.of(hotwords), self.writer if style == "written" else None
        self.spell(found)  # report phrases that cannot be spelled before any work
        decoding = Decoding(search or self.model.config.search, segment, word_timestamps, batch_size, found, writer)
        self.language_model(decoding.search)  # load it before several threads need it
        return decoding

    def _batches(self, decoding: Decoding, processes: Processes | None = None) -> Batches:
        """The batch decoder for these options."""
        return Batches(self.steps(decoding), decoding, self.device, processes)

    def steps(self, decoding: Decoding) -> Callable[[Sequence[Tensor]], Steps[list[Segment]]]:
        """`decode_steps` with these options."""
        return lambda waveforms: self.decode_steps(
            waveforms, decoding.search, decoding.word_timestamps, decoding.hotwords
        )

    def decode(
        self,
        waveforms: Sequence[Tensor],
        config: SearchConfig,
        word_timestamps: bool,
        hotwords: Hotwords | None = None,
    ) -> list[Segment]:
        """Transcribe one batch of waveforms, each as one segment.

        Args:
            waveforms: `(samples,)` at 16 kHz on the CPU, each at most as long as a segment (20 s).
            config: beam size and weights.
            word_timestamps: also find when each word was said.
            hotwords: names and terms to listen for.

        Returns:
            A segment for each waveform, starting at 0 s; its text is empty if nothing was recognised.
        """
        return finish(self.decode_steps(waveforms, config, word_timestamps, hotwords))

    def decode_steps(
        self,
        waveforms: Sequence[Tensor],
        config: SearchConfig,
        word_timestamps: bool,
        hotwords: Hotwords | None = None,
    ) -> Steps[list[Segment]]:
        """As `decode`, in steps of some hundredths of a second on a CPU, so that streams can run between them."""
        lm, spotter = self.language_model(config), self.spell(hotwords)
        return decode_steps(self.model, self.tokenizer, waveforms, config, lm, spotter, word_timestamps)
