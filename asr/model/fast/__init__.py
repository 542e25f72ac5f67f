"""Fast paths, behind one switch.

Plain PyTorch is the reference, and each fast path has a test against it: on CPUs `lstm` and `decoder_loop` in training,
`bf16`, `fp16`, `int8`, `int8_lm` and `location` in recognition, and a search of live hypotheses only; on GPUs `graphs`
in streams. `SPELLSTREAM_FAST=0` in the environment turns all of them off, and `fast_paths(False)` does so for a block
of code. Weights are packed and rounded when a model is loaded, so a loaded recogniser keeps its kind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["enabled", "fast_paths"]

_enabled = os.environ.get("SPELLSTREAM_FAST", "1") != "0"


def enabled() -> bool:
    """Whether fast paths may be used."""
    return _enabled


@contextlib.contextmanager
def fast_paths(on: bool) -> Iterator[None]:
    """Turn fast paths on or off, in all threads, while a block runs."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before
