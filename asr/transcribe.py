"""Audio to transcripts: read, cut at silence, batch by length, encode, search, time the words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asr.config import SearchConfig
from asr.errors import SpellstreamError
from asr.model import Model
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript

__all__ = ["Outcome", "Recogniser"]


class Outcome(NamedTuple):
    """What became of one source: a transcript, or the error that says why there is none."""

    source: Any
    transcript: Transcript | None
    error: SpellstreamError | None


class Recogniser:
    """A model on a device; made by `asr.load`. CONTRACT ONLY, the body follows."""

    model: Model
    tokenizer: Tokenizer
    device: torch.device
    dtype: str
    folder: Path

    @classmethod
    def load(cls, model: str | Path = "default", *, device: str = "auto", dtype: str = "float32") -> Recogniser:
        raise SpellstreamError("not written yet")

    def transcribe(
        self,
        source: Any,
        *,
        sample_rate: int | None = None,
        search: SearchConfig | None = None,
        word_timestamps: bool = True,
        batch_size: int = 16,
    ) -> Transcript:
        """One source (path, "-", file object, array) to a Transcript; raises what reading raises (AudioError)."""
        raise SpellstreamError("not written yet")

    def transcribe_many(
        self,
        sources: Iterable[Any],
        *,
        search: SearchConfig | None = None,
        word_timestamps: bool = False,
        batch_size: int = 16,
    ) -> Iterator[Outcome]:
        """Many sources in flat memory, batched together by length; each yielded as soon as it is done (not in order).

        An unreadable source yields an Outcome with its error and does not stop the others.
        """
        raise SpellstreamError("not written yet")
