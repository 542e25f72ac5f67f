"""Live speech recognition: sources of audio, sessions, events, and an engine that steps many streams as one batch.

    import streaming

    for event in streaming.listen():
        if isinstance(event, streaming.Final):
            print(event.text)

`listen` and `alisten` recognise one source. Servers step many sessions with an `Engine`. Importing this package is
quick: its names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.lazy import lazy

if TYPE_CHECKING:
    from streaming.endpoint import EndpointConfig
    from streaming.engine import Engine, StreamConfig
    from streaming.events import Event, Final, Partial
    from streaming.listener import alisten, listen
    from streaming.policy import PolicyConfig
    from streaming.sources import AudioSource, FileReplay, Microphone, StandardInput

__all__ = [
    "AudioSource",
    "EndpointConfig",
    "Engine",
    "Event",
    "FileReplay",
    "Final",
    "Microphone",
    "Partial",
    "PolicyConfig",
    "StandardInput",
    "StreamConfig",
    "alisten",
    "listen",
]

_MODULES = {
    "endpoint": ("EndpointConfig",),
    "engine": ("Engine", "StreamConfig"),
    "events": ("Event", "Final", "Partial"),
    "listener": ("alisten", "listen"),
    "policy": ("PolicyConfig",),
    "sources": ("AudioSource", "FileReplay", "Microphone", "StandardInput"),
}
__getattr__ = lazy(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
