"""`spellstream listen` and `spellstream devices`, added to the command as a plugin."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

import typer

from asr.commands import options as shared
from asr.commands.groups import grouped
from asr.errors import DeviceError
from asr.terminal import say
from streaming.commands import listen_options as opt
from streaming.commands.options import StreamOptions, StyleOption, make_engine

if TYPE_CHECKING:
    from torch import Tensor

    from asr.writing.hotwords import Hotwords
    from streaming.commands.display import LiveStatistics, LiveView
    from streaming.commands.writers import TranscriptWriter
    from streaming.engine import Engine
    from streaming.sources.base import BaseSource

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    # Arguments are accepted so that they can be refused with advice.
    app.command(context_settings={"allow_extra_args": True}, rich_help_panel=shared.RECOGNITION)(listen)
    app.command(rich_help_panel=shared.RECOGNITION)(devices)


@grouped
def listen(
    context: typer.Context,
    source: opt.SourceOptions,
    model: opt.ListenModelOptions,
    streams: StreamOptions,
    outputs: opt.OutputOptions,
    lm_weight: shared.LmWeight = None,
    hotwords: shared.HotwordsOption = None,
    style: StyleOption = "written",
) -> None:
    """Turn speech into text while it is spoken.

    On a terminal, words that may still change are dimmed. In a pipe, each finished segment is printed as a line.
    Ctrl-C ends the stream after its last words; a second Ctrl-C ends it at once.

    Examples:
      spellstream listen
      spellstream listen --input-device usb --sample-rate 48000 --save session.wav
      spellstream listen --output session.srt --hotwords names.txt
      spellstream listen --file talk.mp4 --speed 0 > talk.txt
      arecord -t raw -f S16_LE -r 16000 | spellstream listen --stdin
      ffmpeg -i rtsp://camera/stream -f s16le -ac 1 -ar 16000 - | spellstream listen --stdin --partials
    """
    if context.args:
        context.fail(_advice(context.args))
    source.check()
    outputs.check(source.file)
    source.find()
    words = shared.hotwords_given(hotwords)
    say(f"loading the model {model.model}")  # before the imports, which take seconds

    config = streams.config(style)
    from streaming.commands.display import LiveStatistics

    statistics = LiveStatistics()
    with source.open() as opened:  # before the model is loaded, so that no audio is lost in that time
        engine = make_engine(model, lm_weight, streams, config, words)
        _run(engine, opened, statistics, outputs, words)


def _advice(arguments: list[str]) -> str:
    """The correct command in place of `listen talk.wav`."""
    names = " ".join(map(shlex.quote, arguments))
    return f"unexpected argument {names}: write listen --file {shlex.quote(arguments[0])}, or transcribe {names}"


def _run(
    engine: Engine,
    source: BaseSource,
    statistics: LiveStatistics,
    outputs: opt.OutputOptions,
    hotwords: Hotwords | None,
) -> None:
    """Listen until the source ends; write and show the events."""
    from asr.audio import SAMPLE_RATE
    from streaming.commands.writers import WavWriter
    from streaming.listener import Listener

    with ExitStack() as files:
        recorder = files.enter_context(WavWriter(outputs.save)) if outputs.save else None
        writers = list(_writers(outputs, files))
        view = _live_view(source, statistics, outputs)

        def heard(chunk: Tensor) -> None:
            if recorder is not None:
                recorder.write(chunk)
            statistics.heard(len(chunk) / SAMPLE_RATE, source.dropped_seconds + source.lost_seconds)

        listener = Listener(engine, source, hotwords=hotwords, heard=heard, notify=say)
        say(f"listening to {source.name}; Ctrl-C ends")
        shows = [statistics.show, *(w.show for w in writers), *([view.show] if view else [])]
        try:
            with view or nullcontext(), _stopped_by_signals(source.stop):
                for event in listener:
                    for show in shows:
                        show(event)
        finally:
            if statistics.audio_seconds:
                say(statistics.summary(listener.compute_seconds, source.dropped_seconds, source.overflows))


def _writers(outputs: opt.OutputOptions, files: ExitStack) -> Iterator[TranscriptWriter]:
    """Writers of transcripts: to the file, and to standard output unless that is a terminal."""
    from streaming.commands.writers import TranscriptWriter, transcript_file

    if outputs.output is not None:
        yield files.enter_context(transcript_file(outputs.output, outputs.file_format))
    if (stdout_format := outputs.stdout_format) is not None:
        yield TranscriptWriter(sys.stdout, "standard output", stdout_format, partials=outputs.partials)


def _live_view(source: BaseSource, statistics: LiveStatistics, outputs: opt.OutputOptions) -> LiveView | None:
    """The live view, if standard output is a terminal."""
    if outputs.stdout_format is not None:
        return None
    from rich.console import Console

    from streaming.commands.display import LiveView

    return LiveView(Console(), source, statistics, meter=outputs.level)


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C or SIGTERM; the second one interrupts."""
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            raise KeyboardInterrupt
        stopping = True
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def devices(as_json: shared.AsJson = False) -> None:
    """List the microphones.

    Examples:
      spellstream devices
      spellstream devices --json
    """
    from streaming.sources.devices import devices as find

    if not (inputs := find()):
        raise DeviceError("there is no microphone: the system lists no audio input")
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in inputs], indent=2, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("number", justify="right")
    table.add_column("name", overflow="fold")
    for column in ("channels", "native rate"):
        table.add_column(column, justify="right")
    table.add_column("default")
    for one in inputs:
        default = "yes" if one.is_default else ""
        table.add_row(str(one.index), Text(one.name), str(one.channels), one.rate_text, default)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
