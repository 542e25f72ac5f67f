"""Spellstream: speech to text, from files and live streams.

    import asr

    recogniser = asr.load("default")
    transcript = recogniser.transcribe("talk.wav")
    print(transcript.text)
    transcript.save("talk.srt")

Importing this package is quick: PyTorch and other heavy packages are imported on first use. Live streams are in the
package `streaming`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.lazy import lazy

if TYPE_CHECKING:
    from pathlib import Path

    from asr.audio.segment import SegmentConfig
    from asr.config import SearchConfig
    from asr.errors import SpellstreamError
    from asr.output.subtitles import SubtitleShape
    from asr.processes import Processes
    from asr.recogniser import Recogniser
    from asr.transcript import Segment, Transcript, Word

__all__ = [
    "Processes",
    "Recogniser",
    "SearchConfig",
    "Segment",
    "SegmentConfig",
    "SpellstreamError",
    "SubtitleShape",
    "Transcript",
    "Word",
    "__version__",
    "load",
]

__version__ = "0.2.0"
__docformat__ = "google"  # for pdoc

_MODULES = {
    "audio.segment": ("SegmentConfig",),
    "config": ("SearchConfig",),
    "errors": ("SpellstreamError",),
    "output.subtitles": ("SubtitleShape",),
    "processes": ("Processes",),
    "recogniser": ("Recogniser",),
    "transcript": ("Segment", "Transcript", "Word"),
}


def load(
    model: str = "default", device: str = "auto", dtype: str = "float32", lm: str | Path | None = None
) -> Recogniser:
    """Load a model and put it on a device.

        recogniser = asr.load("default", device="cpu")

    Args:
        model: name of a model (see `spellstream models`), a checkpoint folder, or `hub:OWNER/NAME@REVISION`.
        device: "cpu", "cuda", or "auto": a GPU if there is one.
        dtype: number format to compute in: "float32", "bfloat16" or "float16".
        lm: a language model in place of the model's own: a folder, the name of a model of yours, or `hub:OWNER/NAME`. A
            search uses it if its `lm_weight` is above 0.

    Raises:
        CheckpointError: the model does not exist or is broken.
        DeviceError: the device or the dtype is not available.
    """
    from asr.recogniser import Recogniser

    return Recogniser.load(model, device=device, dtype=dtype, lm=lm)


__getattr__ = lazy(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
