"""A manifest of one part of LibriSpeech, for `spellstream evaluate`: every utterance, however long.

python -m recipes.librispeech.manifest LibriSpeech/test-clean --output test-clean.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.errors import DataError
from asr.training.corpus.readers import Candidate, Kind, Problem, read
from recipes.status import status

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Write the manifest; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.librispeech.manifest", description=__doc__.split("\n")[0])
    parser.add_argument("part", type=Path, help="folder with speaker/chapter/*.trans.txt")
    parser.add_argument("--output", type=Path, required=True, help="the manifest")
    options = parser.parse_args(arguments)

    def work() -> None:
        manifest.write(options.output, [_utterance(found) for found in read(options.part, Kind.librispeech)])

    return status("manifest", work)


def _utterance(found: Candidate | Problem) -> Utterance:
    """Raise a DataError if a recording or text is missing, since the rest would be another test set."""
    if isinstance(found, Problem):
        raise DataError(f"{found.id}: {found.reason}")
    try:
        seconds = soundfile.info(found.audio).duration
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{found.id}: {found.audio} cannot be read: {error}") from None
    return Utterance(found.id, found.audio, seconds, found.text, found.corpus, found.speaker)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
