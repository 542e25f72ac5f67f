"""The options of `spellstream listen`, and what they come to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands.options import DeviceName, ModelOptions, SearchOptions, load, usage
from asr.errors import AudioError

if TYPE_CHECKING:
    from streaming.engine import Engine, StreamConfig
    from streaming.sources.base import BaseSource

__all__ = ["FormatName", "Outputs", "PolicyName", "SampleFormat", "SourceOptions", "engine", "stream_config"]


class SampleFormat(str, Enum):
    """Encoding of raw PCM, as ffmpeg spells it."""

    u8 = "u8"
    s16le = "s16le"
    s24le = "s24le"
    s32le = "s32le"
    f32le = "f32le"


class PolicyName(str, Enum):
    """When a word is committed."""

    ctc = "ctc"
    attention = "attention"
    agreement = "agreement"


class FormatName(str, Enum):
    """How transcripts are written while they come."""

    txt = "txt"
    jsonl = "jsonl"
    srt = "srt"
    vtt = "vtt"


# --- what to listen to ------------------------------------------------------------------------------------------------

_SOURCE = "Source (the default microphone if none is named)"

InputDevice = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Microphone: its number, its name or a part of that, as listed by spellstream devices.",
        rich_help_panel=_SOURCE,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1,
        help="CPU threads. More do not make one stream faster, and delay it on a busy machine.",
        rich_help_panel="Model",
    ),
]
Reconnect = Annotated[
    bool, typer.Option("--reconnect", help="Wait for an unplugged microphone to come back.", rich_help_panel=_SOURCE)
]
File = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Replay an audio or video file as live input.", rich_help_panel=_SOURCE),
]
Speed = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Replay speed of --file: 1 is real time (the default), 0 the fastest.",
        rich_help_panel=_SOURCE,
    ),
]
Stdin = Annotated[bool, typer.Option("--stdin", help="Raw PCM on standard input.", rich_help_panel=_SOURCE)]
SampleRate = Annotated[
    int | None,
    typer.Option(
        min=1000,
        max=768_000,
        metavar="HZ",
        help="Sample rate of the microphone (its own if not given) or of --stdin (16000).",
        rich_help_panel=_SOURCE,
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        metavar="N",
        help="Channels of the microphone (its own if not given) or of --stdin (1).",
        rich_help_panel=_SOURCE,
    ),
]
SampleFormatOption = Annotated[
    SampleFormat | None,
    typer.Option("--sample-format", help="Sample encoding of --stdin; s16le if not given.", rich_help_panel=_SOURCE),
]

# --- when segments end and words are sure -----------------------------------------------------------------------------

_SEGMENTS = "Segments and words"

MinSilenceMs = Annotated[int, typer.Option(min=1, help="Silence that ends a segment.", rich_help_panel=_SEGMENTS)]
SpeechThreshold = Annotated[
    float, typer.Option(help="How sure the voice detector must be, 0 to 1.", rich_help_panel=_SEGMENTS)
]
MaxSeconds = Annotated[
    float, typer.Option(min=2, max=60, help="A segment longer than this is cut.", rich_help_panel=_SEGMENTS)
]
Policy = Annotated[
    PolicyName,
    typer.Option(
        help="A word is committed when its end by ctc, or the attention, is --margin-ms behind what was heard last, "
        "or when two searches in a row agree on it.",
        rich_help_panel=_SEGMENTS,
    ),
]
MarginMs = Annotated[int, typer.Option(min=0, help="More is surer and later.", rich_help_panel=_SEGMENTS)]
ChunkMs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Audio that is encoded at a time; the model's own if not given.", rich_help_panel=_SEGMENTS
    ),
]
LookaheadMs = Annotated[
    int | None,
    typer.Option(
        min=0, help="What the encoder sees beyond it; the model's own if not given.", rich_help_panel=_SEGMENTS
    ),
]
OverlapMs = Annotated[
    int,
    typer.Option(
        min=0,
        max=10_000,
        help="So much before a chunk is encoded anew with it: more is better and costs more, at no delay.",
        rich_help_panel=_SEGMENTS,
    ),
]

# --- what to show and keep --------------------------------------------------------------------------------------------

_OUTPUT = "Output"

Save = Annotated[
    Path | None,
    typer.Option(metavar="WAV", help="Record what is heard, 16 kHz and 16 bits.", rich_help_panel=_OUTPUT),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the transcript here as it comes.", rich_help_panel=_OUTPUT),
]
TranscriptFormat = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        help="Of --output (else told by its extension) or, without one, of standard output.",
        rich_help_panel=_OUTPUT,
    ),
]
Partials = Annotated[
    bool,
    typer.Option("--partials", help="Write JSON lines, also of what is not final.", rich_help_panel=_OUTPUT),
]
Level = Annotated[
    bool, typer.Option("--level/--no-level", help="Level and latency, on a terminal.", rich_help_panel=_OUTPUT)
]


@dataclass(frozen=True)
class SourceOptions:
    """What to listen to, as it was asked for."""

    input_device: str | None
    reconnect: bool
    file: str | None
    speed: float | None
    stdin: bool
    sample_rate: int | None
    channels: int | None
    sample_format: SampleFormat | None

    def check(self) -> None:
        """Refuse what cannot be meant, before anything takes time."""
        named = {
            "--input-device": self.input_device is not None,
            "--file": self.file is not None,
            "--stdin": self.stdin,
        }
        if len(chosen := [name for name, given in named.items() if given]) > 1:
            raise typer.BadParameter("there can be only one source", param_hint=" and ".join(chosen))
        of_raw = {
            "--sample-rate": self.sample_rate,
            "--channels": self.channels,
        }
        _belongs({"--speed": self.speed}, "--file", self.file is not None)
        _belongs({"--sample-format": self.sample_format}, "--stdin", self.stdin)
        _belongs(of_raw, "a microphone or --stdin", self.file is None)
        _belongs({"--reconnect": self.reconnect or None}, "a microphone", self.file is None and not self.stdin)

    def open(self) -> BaseSource:
        """The source; a microphone listens from now on."""
        from asr.audio import SAMPLE_RATE
        from asr.terminal import say
        from streaming.sources import FileReplay, Microphone, StandardInput

        if self.file is not None:
            if self.file != "-" and not Path(self.file).exists():  # known before a model is loaded
                raise AudioError(self.file, "no such file")
            speed = 1.0 if self.speed is None else self.speed
            return FileReplay(self.file, speed=speed or None)
        if self.stdin:
            encoding = (self.sample_format or SampleFormat.s16le).value
            return StandardInput(self.sample_rate or SAMPLE_RATE, self.channels or 1, encoding)
        return Microphone(
            self.input_device,
            sample_rate=self.sample_rate,
            channels=self.channels,
            reconnect=self.reconnect,
            notify=say,
        )


def _belongs(options: Mapping[str, object], owner: str, there: bool) -> None:
    """Refuse options that have no effect without `owner`."""
    for name, value in options.items():
        if value is not None and not there:
            raise typer.BadParameter(f"it is only for {owner}", param_hint=name)


@dataclass(frozen=True)
class Outputs:
    """What to show and keep, as it was asked for."""

    save: Path | None
    output: Path | None
    format_name: FormatName | None
    partials: bool
    level: bool

    @property
    def file_format(self) -> str:
        """What `output` holds."""
        extension = self.output.suffix[1:].lower() if self.output else ""
        if self.format_name is None and extension in FormatName.__members__:
            return extension
        return (self.format_name or FormatName.txt).value

    @property
    def stdout_format(self) -> str | None:
        """What standard output gets; None stands for a view that is fit for a terminal."""
        if self.partials:
            return FormatName.jsonl.value
        if self.format_name is not None and self.output is None:
            return self.format_name.value
        return None if sys.stdout.isatty() else FormatName.txt.value

    def check(self, file: str | None) -> None:
        """Refuse what cannot be meant, above all to overwrite what is listened to."""
        if self.partials and self.output is None and self.format_name not in (None, FormatName.jsonl):
            raise typer.BadParameter(f"{self.format_name.value} has no place for them", param_hint="--partials")
        for name, path in (("--save", self.save), ("--output", self.output)):
            if path is not None and file is not None and path.exists() and Path(file).exists() and path.samefile(file):
                raise typer.BadParameter(f"it would overwrite {file}", param_hint=name)


def stream_config(
    min_silence_ms: int,
    speech_threshold: float,
    max_seconds: float,
    policy: PolicyName,
    margin_ms: int,
    overlap_ms: int,
) -> StreamConfig:
    """Endpoint rules, commit policy, and how much is encoded anew."""
    from streaming.endpoint import EndpointConfig
    from streaming.engine import StreamConfig
    from streaming.policy import PolicyConfig

    with usage():
        endpoint = EndpointConfig(
            speech_threshold=speech_threshold,
            silence_threshold=min(EndpointConfig.silence_threshold, speech_threshold),
            min_silence_ms=min_silence_ms,
            max_seconds=max_seconds,
        )
        return StreamConfig(endpoint=endpoint, policy=PolicyConfig(policy.value, margin_ms), overlap_ms=overlap_ms)


def engine(
    model: str,
    device: DeviceName,
    threads: int | None,
    lm: Path | None,
    lm_weight: float | None,
    config: StreamConfig,
    chunk_ms: int | None,
    lookahead_ms: int | None,
) -> Engine:
    """The engine that the options ask for; what is not given is the model's own."""
    from streaming.engine import Engine

    recogniser, search = load(ModelOptions(model, device, lm, threads), SearchOptions(lm_weight=lm_weight))
    own = recogniser.model.config.streaming
    with usage():
        context = replace(
            own,
            chunk_ms=own.chunk_ms if chunk_ms is None else chunk_ms,
            lookahead_ms=own.lookahead_ms if lookahead_ms is None else lookahead_ms,
        )
        return Engine(recogniser, replace(config, context=context, final=search))
