"""Numbers as they are written: "twenty three" → "23", "half past three" as it is."""

from asr.writing.numbers.forms import LOOKAHEAD_WORDS, forms

__all__ = ["LOOKAHEAD_WORDS", "forms"]
