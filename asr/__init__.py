"""Spellstream: streaming speech recognition that listens, transcribes and learns.

    import asr
    print(asr.load("default").transcribe("talk.wav").text)

Importing this package is quick: torch and the rest are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from asr.recogniser import Recogniser

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    model: str = "default", device: str = "auto", dtype: str = "float32", lm: str | Path | None = None
) -> Recogniser:
    """A recogniser, ready to transcribe.

    Args:
        model: a shipped model's name or a checkpoint folder.
        device: "auto", "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".
        lm: the folder of a language model, in place of the model's own. It is used where a search gives it a weight.

    Raises:
        CheckpointError: if there is no such model, or it is broken.
        DeviceError: if the device is not there, or the dtype is none of these.
    """
    from asr.recogniser import Recogniser

    return Recogniser.load(model, device=device, dtype=dtype, lm=lm)
