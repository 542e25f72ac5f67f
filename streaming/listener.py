"""Live audio to events: one source and one session of an engine, stepped as the audio comes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

import asr
from asr.errors import AudioError, SpellstreamError
from asr.recogniser import Recogniser
from asr.writing.hotwords import HotwordList
from streaming.engine import Engine, StreamConfig
from streaming.events import Event
from streaming.session import check_chunk
from streaming.sources import AudioSource, Microphone

__all__ = ["Listener", "alisten", "listen"]

_REPORT_SECONDS = 5.0  # dropped audio is reported at most this often
_LOG = logging.getLogger(__name__)


def listen(
    source: AudioSource | None = None,
    *,
    model: str | Recogniser = "default",
    device: str = "auto",
    config: StreamConfig | None = None,
    hotwords: HotwordList = None,
) -> Generator[Event, None, None]:
    """Recognise speech while it is spoken.

        for event in streaming.listen(streaming.Microphone("usb")):
            if isinstance(event, streaming.Final):
                print(event.text)

    When the source ends, fails or is stopped, and at Ctrl-C, the words of the open segment come as a last `Final`; then
    the error or KeyboardInterrupt, if there was one, is raised. Audio that was dropped because the recogniser was late
    is logged as a warning, in seconds.

    Args:
        source: the source, which is closed at the end; None: the default microphone.
        model: a shipped model's name, a checkpoint folder, or a loaded recogniser.
        device: where to load the model: "auto", "cpu" or "cuda".
        config: endpoint rules, commit policy and search; None: `StreamConfig()`.
        hotwords: names and terms to listen for, as "Nextcloud, Siobhán:1.5"; see `Recogniser.transcribe`.

    Yields:
        `Partial` and `Final` events, in order. Their times are seconds from the start of the source.

    Raises:
        AudioError: a chunk of the source is NaN, infinite or of the wrong type, or a file cannot be read.
        CheckpointError: there is no such model, or it is broken.
        ConfigError: settings contradict the model, or it cannot spell a hotword.
        DependencyError: PortAudio is not installed.
        DeviceError: there is no microphone, or it cannot be opened; or no such compute device.
        SourceError: the microphone went away.
    """
    with Microphone() if source is None else source as opened:
        recogniser = model if isinstance(model, Recogniser) else asr.load(model, device)
        yield from Listener(Engine(recogniser, config), opened, hotwords=hotwords)


async def alisten(
    source: AudioSource | None = None,
    *,
    model: str | Recogniser = "default",
    device: str = "auto",
    config: StreamConfig | None = None,
    hotwords: HotwordList = None,
) -> AsyncGenerator[Event, None]:
    """`listen` for asyncio: it computes in a thread. When it is cancelled or closed, it closes the source.

        async for event in streaming.alisten():
            print(event.text)

    Arguments, events and errors are those of `listen`.
    """
    opened: AudioSource = Microphone() if source is None else source
    events = listen(opened, model=model, device=device, config=config, hotwords=hotwords)
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "spellstream-listen")

    def close() -> None:
        events.close()
        opened.close()  # `events` does not close a source before its first step

    try:
        while (event := await loop.run_in_executor(thread, next, events, None)) is not None:
            yield event
    finally:
        opened.stop()
        closed = loop.run_in_executor(thread, close)  # queued in the thread, behind a step that may be running
        thread.shutdown(wait=False)
        await asyncio.shield(closed)


class Listener:
    """One source recognised by an engine: iterate over it, once, for the events of `listen`.

    Args:
        engine: the engine; the listener is one session of it.
        source: the source, which is closed at the end.
        hotwords: names and terms to listen for.
        heard: called with each chunk before it is recognised.
        notify: called with one line when audio was dropped; None: the line is logged as a warning.
    """

    def __init__(
        self,
        engine: Engine,
        source: AudioSource,
        *,
        hotwords: HotwordList = None,
        heard: Callable[[Tensor], None] | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.engine, self.source = engine, source
        self.compute_seconds = 0.0  # spent on it
        self._heard = heard or (lambda chunk: None)
        self._notify = notify or _LOG.warning
        self._session = engine.start(hotwords)
        self._reported_seconds, self._reported_overflows = 0.0, 0
        self._report_after = -1.0

    def __iter__(self) -> Generator[Event, None, None]:
        nothing = chunk = torch.zeros(0)
        ending: BaseException | None = None
        with self.source:
            try:
                for chunk in self.source:
                    try:
                        check_chunk(chunk, self.source.name)
                    except AudioError:
                        chunk = nothing
                        raise
                    self._heard(chunk)
                    events = self._step(chunk)
                    chunk = nothing
                    yield from events
            except (KeyboardInterrupt, SpellstreamError) as error:
                ending = error
            self.source.stop()
            yield from self._step(chunk, final=True)
            self._report_dropped(now=True)
        if ending is not None:
            raise ending

    def _step(self, chunk: Tensor, final: bool = False) -> list[Event]:
        self._report_dropped()
        started = time.perf_counter()
        (self._session,), (events,) = self.engine.step([self._session], [chunk], [final])
        self.compute_seconds += time.perf_counter() - started
        return events

    def _report_dropped(self, now: bool = False) -> None:
        """Report the audio lost since the last report, unless that was a moment ago."""
        lost = self.source.dropped_seconds - self._reported_seconds
        gaps = getattr(self.source, "overflows", 0) - self._reported_overflows  # not in the `AudioSource` protocol
        if (lost <= 0 and not gaps) or not (now or time.monotonic() >= self._report_after):
            return
        if lost > 0:
            self._notify(f"{self.source.name}: {lost:.1f} s of audio dropped: the recogniser is late")
        if gaps:
            times = "once" if gaps == 1 else f"{gaps} times"
            self._notify(f"{self.source.name}: the sound system dropped audio {times} before it was captured")
        self._reported_seconds += lost
        self._reported_overflows += gaps
        self._report_after = time.monotonic() + _REPORT_SECONDS
