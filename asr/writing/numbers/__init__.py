"""Written forms of numbers: "twenty three" → "23"; "half past three" is unchanged."""

from asr.writing.numbers.forms import LOOKAHEAD_WORDS, forms

__all__ = ["LOOKAHEAD_WORDS", "forms"]
