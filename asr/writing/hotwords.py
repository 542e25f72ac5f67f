"""Hotwords: names and terms to listen for, each with a weight, its spoken forms and its written form."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from asr.config import require
from asr.errors import ConfigError
from asr.text.normalise import fold
from asr.writing.parts import Form
from asr.writing.spoken_forms import spoken_forms

__all__ = ["MAX_CHARACTERS", "MAX_PHRASES", "MAX_WEIGHT", "HotwordList", "Hotwords", "Phrase"]

# Accepted from callers: a list as text, a file, or phrases, each with an optional `:weight`.
HotwordList: TypeAlias = "Hotwords | str | Path | Iterable[str] | None"

MAX_PHRASES = 10_000
MAX_CHARACTERS = 100  # of a phrase
MAX_WEIGHT = 5.0
_MAX_FILE_BYTES = 4 << 20
_WEIGHTED = re.compile(r"(.*):\s*([-+]?(?:\d+\.?\d*|\.\d+|nan|inf))", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Phrase:
    """A hotword: one word or a few.

    Args:
        text: written form.
        weight: factor of its bonus in the search, 1 by default.

    Raises:
        ConfigError: it has no word or is too long, or its weight is out of bounds.
    """

    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        shown = self.text[:40]
        require(len(self.text) <= MAX_CHARACTERS, "hotword", shown, f"at most {MAX_CHARACTERS} characters long")
        require(bool(self.spoken), "hotword", shown, "a phrase with a word in it")
        valid = math.isfinite(self.weight) and 0 < self.weight <= MAX_WEIGHT
        require(valid, f"the weight of the hotword {shown!r}", self.weight, f"above 0 and at most {MAX_WEIGHT:g}")

    @classmethod
    def parse(cls, text: str) -> Phrase:
        """Read `phrase` or `phrase:weight`."""
        if match := _WEIGHTED.fullmatch(text.strip()):
            return cls(" ".join(match[1].split()), float(match[2]))
        return cls(" ".join(text.split()))

    @cached_property
    def spoken(self) -> tuple[str, ...]:
        """Its spoken forms, as normalised text: "iPhone 3" → "iphone three", "i phone three"."""
        return spoken_forms(self.text[:MAX_CHARACTERS])


@dataclass(frozen=True)
class Hotwords:
    """A list of hotwords; `+` joins two.

        Hotwords.parse("Nextcloud, Siobhán:1.5, ACME Corp.")
        Hotwords.read(Path("names.txt"))

    Args:
        phrases: if several have the same text, the one with the largest weight counts.

    Raises:
        ConfigError: there are too many, or one is wrong.
    """

    phrases: tuple[Phrase, ...]

    def __post_init__(self) -> None:
        merged: dict[str, Phrase] = {}
        for phrase in self.phrases:
            known = merged.get(phrase.text)
            if known is None or known.weight < phrase.weight:
                merged[phrase.text] = phrase
        require(len(merged) <= MAX_PHRASES, "the number of hotwords", len(merged), f"at most {MAX_PHRASES}")
        object.__setattr__(self, "phrases", tuple(merged.values()))

    @classmethod
    def of(cls, value: HotwordList) -> Hotwords | None:
        """Hotwords from any accepted form: a list as text, a file, or phrases; None if there is no phrase."""
        if value is None or isinstance(value, Hotwords):
            found = value
        elif isinstance(value, Path):
            found = cls.read(value)
        elif isinstance(value, str):
            found = cls.parse(value)
        else:
            found = cls.from_phrases(value)
        return found if found and found.phrases else None

    @classmethod
    def parse(cls, text: str) -> Hotwords:
        """Read phrases separated by commas or line ends, each with an optional `:weight`."""
        return cls.from_phrases(part for part in re.split(r"[,\n]", text) if part.strip())

    @classmethod
    def from_phrases(cls, phrases: Iterable[str]) -> Hotwords:
        """Read phrases that may hold commas, each with an optional `:weight`."""
        some = list(itertools.islice(phrases, 2 * MAX_PHRASES + 1))
        require(len(some) <= 2 * MAX_PHRASES, "the number of hotwords", "larger", f"at most {MAX_PHRASES}")
        for phrase in some:
            require(isinstance(phrase, str), "hotword", phrase, "a string")
        return cls(tuple(map(Phrase.parse, some)))

    @classmethod
    def read(cls, path: Path) -> Hotwords:
        """Read a file in UTF-8 with a phrase, or `phrase:weight`, on each line; # begins a comment.

        Raises:
            ConfigError: the file cannot be read, or a phrase is wrong.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: a list of hotwords must be text in UTF-8") from None
        if len(content) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: a list of hotwords must have at most {_MAX_FILE_BYTES >> 20} MB")
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        try:
            return cls.from_phrases(line for line in lines if line)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def given(cls, value: str | None) -> Hotwords | None:
        """Read the value of the option `--hotwords`: a list, or the name of a file.

        Raises:
            ConfigError: a phrase is wrong, or the file cannot be read.
        """
        if not value:  # "" is the path of the working directory
            return None
        path = Path(value) if len(value) < 4096 and "\0" not in value else None
        looks_like_path = "," not in value and bool(re.search(r"[/\\]|\.(txt|list|csv|tsv)$", value))
        try:
            is_file = path is not None and path.exists()
        except OSError:
            is_file = False
        return cls.of(path if path is not None and (is_file or looks_like_path) else value)

    def __add__(self, other: Hotwords) -> Hotwords:
        return Hotwords(self.phrases + other.phrases)

    def forms(self, words: Sequence[str]) -> list[Form]:
        """The written forms of phrases among recognised words; of overlapping ones the first, and there the longest.

        Args:
            words: in lower case, as recognised.
        """
        found: list[Form] = []
        start = 0
        while start < len(words):
            for length in self._lengths.get(words[start].removesuffix("'s"), ()):
                form = self._form(words, start, start + length)
                if form is not None:
                    found.append(form)
                    start = form.end
                    break
            else:
                start += 1
        return found

    def _form(self, words: Sequence[str], start: int, end: int) -> Form | None:
        if end > len(words):
            return None
        said = " ".join(words[start:end])
        if said in self._written:
            return Form(start, end, self._written[said])
        owner = said.removesuffix("'s")
        return Form(start, end, f"{self._written[owner]}'s") if owner in self._written else None

    @cached_property
    def _written(self) -> dict[str, str]:
        """Normalised spoken form → written form."""
        written: dict[str, str] = {}
        for phrase in self.phrases:
            for said in phrase.spoken:
                written.setdefault(said, phrase.text)
        for phrase in self.phrases:  # a phrase's plainest form takes precedence over an earlier phrase's others
            written[fold(phrase.text)] = phrase.text
        return written

    @cached_property
    def _lengths(self) -> dict[str, tuple[int, ...]]:
        """First word, without 's → lengths, in words, of the phrases that begin with it, longest first."""
        lengths: dict[str, set[int]] = {}
        for said in self._written:
            first, *others = said.split() or [""]
            lengths.setdefault(first.removesuffix("'s"), set()).add(1 + len(others))
        return {first: tuple(sorted(some, reverse=True)) for first, some in lengths.items()}
