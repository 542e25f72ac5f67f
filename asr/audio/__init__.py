"""Audio: anything that can be decoded, as 16 kHz mono float32, and where speech is in it.

Names are imported when they are first used, so that `asr.audio.kinds` is there without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.lazy import lazy

if TYPE_CHECKING:
    from asr.audio.tracks import Track
    from asr.audio.waveform import SAMPLE_RATE, Resampler, Source, blocks, load, source_name

__all__ = ["SAMPLE_RATE", "Resampler", "Source", "Track", "blocks", "load", "source_name"]

_MODULES = {
    "tracks": ("Track",),
    "waveform": ("SAMPLE_RATE", "Resampler", "Source", "blocks", "load", "source_name"),
}
__getattr__ = lazy(__name__, _MODULES)
