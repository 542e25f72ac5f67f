"""Where live audio comes from: a microphone, a file replayed in its own time, raw samples on standard input.

Each is an iterable of 16 kHz mono float32 tensors `(samples,)`, whatever the source's own rate and channels.
"""

from streaming.sources.base import AudioSource
from streaming.sources.devices import Device, find_device
from streaming.sources.file import FileReplay
from streaming.sources.microphone import Microphone
from streaming.sources.stdin import StandardInput

__all__ = ["AudioSource", "Device", "FileReplay", "Microphone", "StandardInput", "find_device"]
