"""Hotwords from a prompt: a list of names, or the rare words of free text."""

from __future__ import annotations

import re

from asr.text.normalise import fold
from asr.writing.spoken_forms import common_words

__all__ = ["MAX_PROMPT_PHRASES", "phrases_of_prompt"]

MAX_PROMPT_PHRASES = 200
_MAX_CHARACTERS = 10_000  # the rest of a longer prompt is not read
_MAX_WORDS_OF_AN_ENTRY = 4


def phrases_of_prompt(prompt: str) -> list[str]:
    """Up to 200 hotwords from a prompt.

    - From a list (parts of at most four words, separated by commas, semicolons or line ends): its parts.
    - From free text: the words that are not among the 5,000 most frequent of English, each once; adjacent words with
      capitals form one name.
    """
    prompt = prompt[:_MAX_CHARACTERS]
    parts = [" ".join(part.split()).strip(".") for part in re.split(r"[,;\n]", prompt)]
    parts = [part for part in parts if fold(part)]
    if all(len(part.split()) <= _MAX_WORDS_OF_AN_ENTRY for part in parts):
        return list(dict.fromkeys(parts))[:MAX_PROMPT_PHRASES]
    return list(dict.fromkeys(_rare(prompt)))[:MAX_PROMPT_PHRASES]


def _rare(text: str) -> list[str]:
    """Rare words, and names of several words that include a rare one."""
    found: list[str] = []
    name: list[str] = []
    for word in [*text.split(), "."]:
        bare = word.strip(".,;:!?()[]{}<>\"'“”‘’«»*_")
        rare = bool(fold(bare)) and not set(fold(bare).split()) <= common_words()
        if rare and name and bare[:1].isupper():
            name.append(bare)
        else:
            found += [" ".join(name)] if name else []
            name = [bare] if rare else []
        if name and word[-1:] in ".,;:!?)":
            found.append(" ".join(name))
            name = []
    return found
