"""Pseudo-labels: the most confident transcripts of unlabelled speech, as a manifest to train on.

    spellstream transcribe unlabelled.jsonl --output heard.jsonl
    python -m recipes.default_model.pseudo_label keep unlabelled.jsonl heard.jsonl --share 0.6 --output pseudo.jsonl

Utterances are ranked by the score of their search, for each word (Park et al. 2020, "Improved noisy student training
for automatic speech recognition"). To choose the share, see how many words are wrong at each where the texts are known:

    python -m recipes.default_model.pseudo_label shares dev.jsonl heard-dev.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.errors import DataError
from asr.files import absolute
from asr.text import metrics
from recipes.status import status

__all__ = ["Heard", "main", "rank"]

SHARES = tuple(tenths / 10 for tenths in range(1, 11))


class Heard(NamedTuple):
    """An utterance, its transcript, and the score per word."""

    utterance: Utterance
    text: str
    score: float


def main(arguments: Sequence[str]) -> int:
    """Write the manifest, or print the error rates; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.default_model.pseudo_label", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    keep = commands.add_parser("keep", help="write a manifest of the best")
    keep.add_argument("--share", type=float, default=0.6, help="of the utterances, the best; default 0.6")
    keep.add_argument("--output", type=Path, required=True, help="the manifest")
    keep.set_defaults(run=_keep)
    shares = commands.add_parser("shares", help="error rates of the best tenth, two tenths, ...")
    shares.set_defaults(run=_shares)
    for command in (keep, shares):
        command.add_argument("manifest", type=Path)
        command.add_argument("rows", type=Path, help="by `spellstream transcribe MANIFEST --output ROWS.jsonl`")
    options = parser.parse_args(arguments)
    return status("pseudo_label", lambda: options.run(options, rank(manifest.read(options.manifest), options.rows)))


def rank(utterances: Sequence[Utterance], rows: Path) -> list[Heard]:
    """Utterances with a transcript, the most confident first.

    Raises:
        DataError: `rows` cannot be read, or holds none of the utterances.
    """
    found = {absolute(str(utterance.audio)): utterance for utterance in utterances}
    try:
        with rows.open(encoding="utf-8") as lines:
            heard = [
                Heard(found[row["source"]], row["text"], _score(row))
                for row in map(json.loads, lines)
                if row["text"] and row["source"] in found
            ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{rows}: expected rows as transcribe writes them: {error}") from None
    if not heard:
        raise DataError(f"{rows}: nothing was heard of these utterances")
    return sorted(heard, key=lambda one: -one.score)


def _score(row: dict[str, Any]) -> float:
    return float(sum(segment["score"] for segment in row["segments"]) / len(row["text"].split()))


def _keep(options: argparse.Namespace, heard: Sequence[Heard]) -> None:
    best = heard[: round(options.share * len(heard))]
    manifest.write(options.output, (dataclasses.replace(one.utterance, text=one.text) for one in best))
    hours = sum(one.utterance.duration_seconds for one in best) / 3600
    print(f"{options.output}: {len(best)} utterances, {hours:.2f} h")


def _shares(_: argparse.Namespace, heard: Sequence[Heard]) -> None:
    known = [(one, one.utterance.text) for one in heard if one.utterance.text is not None]
    scored = [metrics.score(u.id, u.corpus, text, said, u.duration_seconds) for (u, said, _), text in known]
    for share in SHARES:
        best = scored[: max(1, round(share * len(scored)))]
        rate = sum((one.words for one in best[1:]), best[0].words).rate
        print(
            f"the best {share:4.0%}: score of a word from {known[len(best) - 1][0].score:6.2f}, WER {100 * rate:5.1f} %"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
