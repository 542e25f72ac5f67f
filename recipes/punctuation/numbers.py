"""Sentences without numbers that the rules for numbers and spelled letters change.

    python -m recipes.punctuation.numbers FILE... [--sentences N] [--skip N]

FILE: text with marks and capitals, a paragraph a line. N sentences (default: 10,000) without digits, number words and
months are taken evenly from the files, from another third for each --skip, lower-cased and without marks. Changed
sentences are listed with their changes; forms that the author also wrote as capitals ("U.S." for "US") count as right,
the others are for the reader to judge.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from asr.text.normalise import normalise
from asr.writing.numbers import forms
from asr.writing.numbers.cardinals import MONTHS, ORDINALS, is_number_word
from asr.writing.parts import Form

_SKIP = 3  # number of parts into which a file's sentences are divided
_POSSESSIVE = re.compile(r"\.(?=['’]s\b)")  # in "U.S.'s", which is one word
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"')]*\s+")


def sentences(path: Path, skip: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Every third sentence of a text without numbers: in written form, and its spoken words."""
    with path.open(encoding="utf-8") as file:
        each = (sentence for line in file for sentence in _SENTENCE_END.split(line.strip()))
        for sentence in islice(each, skip % _SKIP, None, _SKIP):
            words = (normalise(_POSSESSIVE.sub("", sentence)) or "").split()
            if len(words) > 1 and not any(map(_is_number, words)):
                yield sentence, words


def _is_number(word: str) -> bool:
    singular = word.removesuffix("s")
    return is_number_word(singular) or singular in ORDINALS or word in MONTHS or word.endswith("ties")


def as_author(form: Form, sentence: str) -> bool:
    """Whether the sentence has the letters of the form, as capitals or with full stops: "US", "U. S.", "p.r.n."."""
    letters = "[ .&_-]*".join(re.escape(letter) for letter in form.text if letter.isalnum())
    found = re.finditer(rf"(?<![^\W_]){letters}(?![^\W_])", sentence, re.IGNORECASE)
    return any(match[0].isupper() or "." in match[0] for match in found)


def evenly(paths: Sequence[Path], count: int, skip: int) -> Iterator[tuple[str, list[str]]]:
    """Sentences of the texts in turn, until there are enough or none are left."""
    texts = [sentences(path, skip) for path in paths]
    while count > 0 and texts:
        for text in texts[:count]:
            found = next(text, None)
            if found is None:
                texts.remove(text)
                break
            count -= 1
            yield found


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()

    read = right = 0
    others: list[str] = []
    for sentence, words in evenly(options.files, options.sentences, options.skip):
        read += 1
        for form in forms(words):
            if as_author(form, sentence):
                right += 1
            else:
                others.append(f"{' '.join(words[form.start : form.end])} → {form.text}\t{sentence}")
    print("\n".join(others))
    print(f"{read} sentences; {right} forms as their author wrote them, {len(others)} to judge")


if __name__ == "__main__":
    main()
