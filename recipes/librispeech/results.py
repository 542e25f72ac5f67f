"""RESULTS.md from the scores of `spellstream evaluate --json`.

python -m recipes.librispeech.results MODEL scores/*.json --output RESULTS.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import DataError
from asr.files import write_atomically
from asr.hub.listing import sha256
from recipes.status import status

__all__ = ["main", "markdown"]


def main(arguments: Sequence[str]) -> int:
    """Write the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.librispeech.results", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("scores", type=Path, nargs="+", help="output of `spellstream evaluate --json`, one per set")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="the prepared training corpora")
    parser.add_argument("--command", default="", help="the command to quote as the origin")
    parser.add_argument("--output", type=Path, required=True, help="the table")
    options = parser.parse_args(arguments)

    def work() -> None:
        facts = {
            "command": f"`{options.command}`",
            "trained on": ", ".join(map(_hours, options.data)),
            "model": f"SHA-256 of its weights {_hash(options.model / 'model.safetensors')}",
            "date": datetime.date.today().isoformat(),
        }
        scores = {path.stem: _read(path) for path in sorted(options.scores, key=lambda path: path.stem)}
        write_atomically(options.output, markdown(scores, facts))

    return status("results", work)


def markdown(scores: dict[str, dict[str, Any]], facts: dict[str, str]) -> str:
    """The table, a row per set and search, with the origin of its numbers below."""
    lines = [
        "# LibriSpeech: results",
        "",
        "| set | search | utterances | words | WER % | 95 % interval | CER % | real-time factor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        total, settings = score["summaries"][-1], score["settings"]
        search = settings["search"]
        with_lm = f", LM {search['lm_weight']:g}" if search["lm_weight"] else ""
        low, high = (100 * bound for bound in total["wer_interval"])
        lines.append(
            f"| {name.removesuffix('+lm')} | beam {search['beam_size']}, CTC {search['ctc_weight']:g}{with_lm} "
            f"| {total['utterances']:,} | {total['words']['reference_length']:,} | {_percent(total['words'])} "
            f"| {low:.2f} – {high:.2f} | {_percent(total['characters'])} | {score['real_time_factor']:.4f} |"
        )
    failed = sum(score["failed"] for score in scores.values())
    some = next(iter(scores.values()))["settings"]
    machine = {
        "machine": f"{some['device']}, {some['dtype']}, {some['threads']} threads, batches of {some['batch_size']}"
    }
    notes = {"spellstream": some["spellstream"], **machine, **facts}
    if failed:
        notes = {"missing": f"{failed} utterances could not be read", **notes}
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in notes.items())]) + "\n"


def _percent(counts: dict[str, Any]) -> str:
    errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
    return f"{100 * errors / max(counts['reference_length'], 1):.2f}"


def _hours(folder: Path) -> str:
    about = _json(folder / "corpus.json", {"utterances", "seconds"})
    return f"{folder.name} ({about['utterances']:,} utterances, {about['seconds'] / 3600:.1f} h)"


def _read(path: Path) -> dict[str, Any]:
    return _json(path, {"summaries", "settings", "failed", "real_time_factor"})


def _json(path: Path, keys: set[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict) or not keys <= found.keys():
        raise DataError(f"{path}: has not {', '.join(sorted(keys))}")
    return found


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
