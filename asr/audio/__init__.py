"""Audio: anything that can be decoded, as 16 kHz mono float32, and where speech is in it.

Names are imported when they are first used, so that `asr.audio.kinds` is there without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.audio.tracks import Track
    from asr.audio.waveform import SAMPLE_RATE, Resampler, Source, blocks, load, source_name

__all__ = ["SAMPLE_RATE", "Resampler", "Source", "Track", "blocks", "load", "source_name"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asr.audio import waveform

    globals().update({one: getattr(waveform, one) for one in __all__})
    return globals()[name]
