"""Audio: decoding of any source to 16 kHz mono float32, and detection of speech in it.

Names are imported on first use, so that `asr.audio.kinds` does not need PyTorch.
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
