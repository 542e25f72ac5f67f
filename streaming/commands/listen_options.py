"""The options specific to `spellstream listen`: the source, display and recording."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from asr.commands.options import ModelOptions, track_option
from asr.files import require_folder

if TYPE_CHECKING:
    from streaming.sources.base import BaseSource

__all__ = ["FormatName", "ListenModelOptions", "OutputOptions", "SampleFormat", "SourceOptions"]

Threads = Annotated[
    int,
    typer.Option(
        min=1,
        help="CPU threads. More than one does not speed up a single stream, and delays it on a busy machine.",
        rich_help_panel="Model",
    ),
]


@dataclass(frozen=True)
class ListenModelOptions(ModelOptions):
    """The model and where it runs, by default on one thread."""

    threads: Threads = 1


# --- the source -------------------------------------------------------------------------------------------------------


SampleFormat = Literal["u8", "s16le", "s24le", "s32le", "f32le"]


_SOURCE = "Source (default: the default microphone)"

InputDevice = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Microphone: number, name or part of the name, as listed by spellstream devices.",
        rich_help_panel=_SOURCE,
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
        metavar="FACTOR",
        help="Replay speed of --file: 1 is real time (the default), 0 the fastest.",
        rich_help_panel=_SOURCE,
    ),
]
FileTrack = Annotated[str | None, track_option(_SOURCE)]
Stdin = Annotated[bool, typer.Option("--stdin", help="Raw PCM on standard input.", rich_help_panel=_SOURCE)]
SampleRate = Annotated[
    int | None,
    typer.Option(
        min=1000,
        max=768_000,
        metavar="HZ",
        help="Sample rate of the microphone (its own by default) or of --stdin (16000).",
        rich_help_panel=_SOURCE,
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        metavar="N",
        help="Channels of the microphone (its own by default) or of --stdin (1).",
        rich_help_panel=_SOURCE,
    ),
]
SampleFormatOption = Annotated[
    SampleFormat | None,
    typer.Option("--sample-format", help="Encoding of --stdin; s16le by default.", rich_help_panel=_SOURCE),
]


@dataclass(frozen=True)
class SourceOptions:
    """What to listen to."""

    input_device: InputDevice = None
    reconnect: Reconnect = False
    file: File = None
    speed: Speed = None
    track: FileTrack = None
    stdin: Stdin = False
    sample_rate: SampleRate = None
    channels: Channels = None
    sample_format: SampleFormatOption = None

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            typer.BadParameter: names the options.
        """
        named = {
            "--input-device": self.input_device is not None,
            "--file": self.file is not None,
            "--stdin": self.stdin,
        }
        if len(chosen := [name for name, given in named.items() if given]) > 1:
            raise typer.BadParameter("there can be only one source", param_hint=" and ".join(chosen))
        microphone = self.file is None and not self.stdin
        _require_owner({"--speed": self.speed, "--track": self.track}, "--file", self.file is not None)
        _require_owner({"--sample-format": self.sample_format}, "--stdin", self.stdin)
        raw = {"--sample-rate": self.sample_rate, "--channels": self.channels}
        _require_owner(raw, "a microphone or --stdin", self.file is None)
        _require_owner({"--reconnect": self.reconnect or None}, "a microphone", microphone)

    def find(self) -> None:
        """Check that the source exists; quick, so it comes before slower steps.

        Raises:
            AudioError: no such file.
            DependencyError: PortAudio is not installed.
            DeviceError: no such microphone, or more than one.
        """
        if self.file is not None:
            from asr.archive.sources import missing

            if (error := missing(self.file)) is not None:
                raise error
        elif not self.stdin:
            from streaming.sources.devices import find_device

            find_device(self.input_device)

    def open(self) -> BaseSource:
        """Open the source; a microphone starts to capture.

        Raises:
            AudioError, DeviceError: it cannot be opened.
        """
        from asr.audio import SAMPLE_RATE
        from asr.terminal import say
        from streaming.sources import FileReplay, Microphone, StandardInput

        if self.file is not None:
            speed = 1.0 if self.speed is None else self.speed
            return FileReplay(self.file, speed=speed or None, track=self.track)
        if self.stdin:
            encoding = self.sample_format or "s16le"
            return StandardInput(self.sample_rate or SAMPLE_RATE, self.channels or 1, encoding)
        return Microphone(
            self.input_device,
            sample_rate=self.sample_rate,
            channels=self.channels,
            reconnect=self.reconnect,
            notify=say,
        )


def _require_owner(options: Mapping[str, object], owner: str, there: bool) -> None:
    """Refuse options that have no effect without `owner`."""
    for name, value in options.items():
        if value is not None and not there:
            raise typer.BadParameter(f"it is only for {owner}", param_hint=name)


# --- what to show and keep --------------------------------------------------------------------------------------------


FormatName = Literal["txt", "jsonl", "srt", "vtt"]


# Extensions of formats that need a finished transcript, each with the nearest format for a stream.
_OF_FILES = {"json": "jsonl", "tsv": "jsonl", "csv": "jsonl", "parquet": "jsonl"}
_OUTPUT = "Output"

Save = Annotated[
    Path | None,
    typer.Option(metavar="WAV", help="Record the audio, 16 kHz mono, 16 bits.", rich_help_panel=_OUTPUT),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write each segment to a file as soon as it ends.", rich_help_panel=_OUTPUT),
]
TranscriptFormat = Annotated[
    FormatName | None,
    typer.Option(
        "--format",
        help="Format of --output (by default as its extension) or, without --output, of standard output.",
        rich_help_panel=_OUTPUT,
    ),
]
Partials = Annotated[
    bool,
    typer.Option("--partials", help="Print JSON lines, including unfinished segments.", rich_help_panel=_OUTPUT),
]
Level = Annotated[
    bool,
    typer.Option("--level/--no-level", help="Show level and latency on a terminal.", rich_help_panel=_OUTPUT),
]


@dataclass(frozen=True)
class OutputOptions:
    """What to show and keep."""

    save: Save = None
    output: Output = None
    format_name: TranscriptFormat = None
    partials: Partials = False
    level: Level = True

    @property
    def file_format(self) -> str:
        """The format of `output`."""
        if self.format_name is None and self._extension in get_args(FormatName):
            return self._extension
        return self.format_name or "txt"

    @property
    def stdout_format(self) -> str | None:
        """The format of standard output; None: the live view of a terminal."""
        if self.partials:
            return "jsonl"
        if self.format_name is not None and self.output is None:
            return self.format_name
        return None if sys.stdout.isatty() else "txt"

    @property
    def _extension(self) -> str:
        return self.output.suffix[1:].lower() if self.output else ""

    def check(self, file: str | None) -> None:
        """Refuse options that contradict each other, and outputs that cannot be written or would overwrite the source.

        Raises:
            DataError: a folder does not exist.
            typer.BadParameter: names the option.
        """
        if self.partials and self.output is None and self.format_name not in (None, "jsonl"):
            raise typer.BadParameter(f"{self.format_name} cannot contain them", param_hint="--partials")
        if self.format_name is None and (nearest := _OF_FILES.get(self._extension)):
            names = ", ".join(get_args(FormatName))
            reason = f"a stream can be written as {names}, not as {self._extension}: use .{nearest}"
            raise typer.BadParameter(reason, param_hint="--output")
        for name, path in (("--save", self.save), ("--output", self.output)):
            if path is None:
                continue
            require_folder(path)
            if file is not None and path.exists() and Path(file).exists() and path.samefile(file):
                raise typer.BadParameter(f"it would overwrite {file}", param_hint=name)
