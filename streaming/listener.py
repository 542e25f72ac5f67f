"""Live audio to events: one source and one session of an engine, stepped as the audio comes.

for event in streaming.listen():
    print(event.text)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

import asr
from asr.audio import SAMPLE_RATE
from asr.errors import SpellstreamError
from asr.recogniser import Recogniser
from streaming.engine import Engine, StreamConfig
from streaming.events import Event
from streaming.sources import AudioSource, Microphone

__all__ = ["Listener", "alisten", "listen"]

_TELL_AGAIN_SECONDS = 5.0  # a recogniser that stays late is not worth a line for every chunk
_LOG = logging.getLogger(__name__)


def listen(
    source: AudioSource | None = None,
    *,
    model: str | Recogniser = "default",
    device: str = "auto",
    config: StreamConfig | None = None,
) -> Generator[Event, None, None]:
    """Recognise speech while it is spoken.

    Where the source ends, fails or is stopped, and at Ctrl-C, the words that are still open come as a last `Final`;
    then the error or KeyboardInterrupt, if there was one, is raised. What was dropped because the recogniser was late
    is logged as a warning, with how many seconds.

    Args:
        source: what to listen to, closed at the end; the default microphone if None.
        model: a shipped model's name, a checkpoint folder, or a recogniser that is loaded already.
        device: "auto", "cpu" or "cuda"; where to load a model.
        config: endpoint rules, commit policy and search; `StreamConfig()` if None.

    Raises:
        SpellstreamError: no microphone, no such model, or the source failed.
    """
    with Microphone() if source is None else source as opened:
        recogniser = model if isinstance(model, Recogniser) else asr.load(model, device)
        yield from Listener(Engine(recogniser, config), opened)


async def alisten(
    source: AudioSource | None = None,
    *,
    model: str | Recogniser = "default",
    device: str = "auto",
    config: StreamConfig | None = None,
) -> AsyncGenerator[Event, None]:
    """`listen` for asyncio: all that takes time happens in a thread. Cancelled or closed, it closes the source."""
    opened: AudioSource = Microphone() if source is None else source
    events = listen(opened, model=model, device=device, config=config)
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "spellstream-listen")

    def close() -> None:
        events.close()
        opened.close()  # had `events` not begun, it would not know of it

    try:
        while (event := await loop.run_in_executor(thread, next, events, None)) is not None:
            yield event
    finally:
        opened.stop()
        closed = loop.run_in_executor(thread, close)  # waits its turn: the thread may be in the midst of a step
        thread.shutdown(wait=False)
        await asyncio.shield(closed)


class Listener:
    """A source on its way through an engine: iterate over it, once, for what `listen` yields.

    Args:
        engine: recognises; the listener is one session of it.
        source: is closed at the end.
        heard: is given each chunk before it is recognised.
        notify: is told in one line of audio that was dropped; a logged warning if None.
    """

    def __init__(
        self,
        engine: Engine,
        source: AudioSource,
        *,
        heard: Callable[[Tensor], None] | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.engine, self.source = engine, source
        self.audio_seconds = 0.0  # recognised so far
        self.compute_seconds = 0.0  # spent on it
        self._heard = heard or (lambda chunk: None)
        self._notify = notify or _LOG.warning
        self._session = engine.start()
        self._told_seconds, self._told_overflows = 0.0, 0
        self._tell_after = -1.0

    def __iter__(self) -> Generator[Event, None, None]:
        nothing = chunk = torch.zeros(0)
        ending: BaseException | None = None
        with self.source:
            try:
                for chunk in self.source:
                    self._heard(chunk)
                    events = self._step(chunk)
                    chunk = nothing
                    yield from events
            except (KeyboardInterrupt, SpellstreamError) as error:
                ending = error
            self.source.stop()
            yield from self._step(chunk, final=True)
            self._tell_dropped(now=True)
        if ending is not None:
            raise ending

    def _step(self, chunk: Tensor, final: bool = False) -> list[Event]:
        self._tell_dropped()
        started = time.perf_counter()
        (self._session,), (events,) = self.engine.step([self._session], [chunk], [final])
        self.compute_seconds += time.perf_counter() - started
        self.audio_seconds += len(chunk) / SAMPLE_RATE
        return events

    def _tell_dropped(self, now: bool = False) -> None:
        """Tell of what has been lost since it was last told, unless that was a moment ago."""
        lost = self.source.dropped_seconds - self._told_seconds
        gaps = getattr(self.source, "overflows", 0) - self._told_overflows  # not every source of others' has them
        if (lost <= 0 and not gaps) or not (now or time.monotonic() >= self._tell_after):
            return
        if lost > 0:
            self._notify(f"{self.source.name}: {lost:.1f} s of audio dropped, as the recogniser is late")
        if gaps:
            times = "once" if gaps == 1 else f"{gaps} times"
            self._notify(f"{self.source.name}: the sound system dropped audio {times} before it got here")
        self._told_seconds, self._told_overflows = self._told_seconds + lost, self._told_overflows + gaps
        self._tell_after = time.monotonic() + _TELL_AGAIN_SECONDS
