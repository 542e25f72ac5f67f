"""Hypotheses from another system, to be scored in place of our own.

Forms, by suffix:

- `.jsonl`, `.json`, `.csv`, `.tsv`: rows with an `id`, or else with the path of the audio (`audio`, `audio_filepath`,
  `source`, `path`), and a text (`hypothesis`, `pred_text`, `spoken` or `text`). `spellstream transcribe --output`
  writes such rows; if their text is in written form, `spoken` holds the recognised words.
- `.trn`: NIST's, `the text (id)` on each line; lines that begin with `;;` are comments.
- anything else: Kaldi's, `id the text` on each line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr.archive import tables
from asr.archive.manifest import Utterance, audio_path
from asr.errors import DataError

__all__ = ["Hypotheses", "read"]

_PATHS = ("audio", "audio_filepath", "source", "path")
_TEXTS = ("hypothesis", "pred_text", "spoken", "text")
_TRN = re.compile(r"(.*?)\s*\(([^()\s]+)\)")


@dataclass(frozen=True)
class Hypotheses:
    """Texts by the id or the absolute audio path of their utterance, and an error for each row without them."""

    texts: dict[str, str]
    errors: tuple[DataError, ...]

    def of(self, utterance: Utterance) -> str | None:
        """The text of an utterance; None where there is none."""
        return self.texts.get(utterance.id, self.texts.get(str(utterance.audio)))


def read(path: Path) -> Hypotheses:
    """Read hypotheses; an utterance that occurs twice keeps its first text.

    Raises:
        DataError: the file cannot be read, is in UTF-16, or is empty.
    """
    texts: dict[str, str] = {}
    errors: list[DataError] = []
    for place, found in _rows(path) if path.suffix.lower() in tables.SUFFIXES else _lines(path):
        if isinstance(found, DataError):
            errors.append(found)
        elif found[0] in texts:
            errors.append(DataError(f"{place}: a second hypothesis for {found[0]}"))
        else:
            texts[found[0]] = found[1]
    return Hypotheses(texts, tuple(errors))


def _rows(path: Path) -> Iterator[tuple[str, tuple[str, str] | DataError]]:
    for place, fields in tables.rows(path, ("id", *_PATHS)):
        if isinstance(fields, DataError):
            yield place, fields
            continue
        name = fields.get("id")
        audio = next((fields[key] for key in _PATHS if fields.get(key)), None)
        text = next((fields[key] for key in _TEXTS if fields.get(key) is not None), None)
        if name is None and isinstance(audio, str):
            try:
                name = str(audio_path(audio, path.absolute().parent, fields, place))
            except DataError as error:
                yield place, error
                continue
        if not isinstance(name, str) or not isinstance(text, str):
            yield place, DataError(f"{place}: expected an id, or the path of the audio, and a text")
        else:
            yield place, (name, text)


def _lines(path: Path) -> Iterator[tuple[str, tuple[str, str] | DataError]]:
    trn = path.suffix.lower() == ".trn"
    for number, line in enumerate(tables.content(path).split(b"\n"), start=1):
        place = f"{path}:{number}"
        text = line.decode("utf-8", errors="replace").strip()
        if not text or (trn and text.startswith(";;")):
            continue
        if not trn:
            name, *said = text.split(maxsplit=1)
            yield place, (name, said[0] if said else "")
        elif match := _TRN.fullmatch(text):
            yield place, (match[2], match[1])
        else:
            yield place, DataError(f"{place}: expected the text and then the id in brackets")
