"""Sources of live audio: a microphone, a file replayed in real time, raw PCM on standard input.

Each is an iterable of 16 kHz mono float32 tensors `(samples,)`, whatever the source's own rate and channels. Importing
this package is quick: its names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.lazy import lazy

if TYPE_CHECKING:
    from streaming.sources.base import AudioSource
    from streaming.sources.devices import Device, find_device
    from streaming.sources.file import FileReplay
    from streaming.sources.microphone import Microphone
    from streaming.sources.stdin import StandardInput

__all__ = ["AudioSource", "Device", "FileReplay", "Microphone", "StandardInput", "find_device"]

_MODULES = {
    "base": ("AudioSource",),
    "devices": ("Device", "find_device"),
    "file": ("FileReplay",),
    "microphone": ("Microphone",),
    "stdin": ("StandardInput",),
}
__getattr__ = lazy(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
