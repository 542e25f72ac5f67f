"""Error rate as a function of hours of labelled speech.

    python -m recipes.scaling_curve.curve subsets corpora/*.jsonl --hours 2 4 8 16 --output subsets
    python -m recipes.scaling_curve.curve fit 2=scores/2h.json 4=scores/4h.json 8=scores/8h.json 16=scores/16h.json

`subsets` draws utterances from all of the manifests at once, so that each subset has the same mix of corpora, and holds
the smaller ones. `fit` prints a table of the error rates from `spellstream evaluate --json`, and the power law fitted
to them (Hestness et al. 2017, "Deep learning scaling is predictable, empirically").
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr.archive import manifest
from asr.archive.manifest import Utterance
from asr.errors import DataError
from recipes.status import status

__all__ = ["Law", "fit", "main", "subset", "table"]


class Law(NamedTuple):
    """Power law: the error rate is `at_one * hours ** -exponent`."""

    at_one: float
    exponent: float

    def __call__(self, hours: float) -> float:
        return float(self.at_one * hours**-self.exponent)


def main(arguments: Sequence[str]) -> int:
    """Write subsets, or print a fit; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.scaling_curve.curve", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    draw = commands.add_parser("subsets", help="manifests of given lengths in hours")
    draw.add_argument("manifests", type=Path, nargs="+")
    draw.add_argument("--hours", type=float, nargs="+", required=True)
    draw.add_argument("--output", type=Path, required=True, help="folder for 2h.jsonl and so on")
    draw.set_defaults(run=_subsets)
    fitting = commands.add_parser("fit", help="a table and a power law")
    fitting.add_argument("scores", nargs="+", metavar="HOURS=FILE", help="by `spellstream evaluate --json`")
    fitting.set_defaults(run=_fit)
    options = parser.parse_args(arguments)
    return status("curve", lambda: options.run(options))


def subset(utterances: Iterable[Utterance], hours: float) -> list[Utterance]:
    """Transcribed utterances in an order given by their ids, up to `hours`.

    Raises:
        DataError: there are fewer hours.
    """
    found, seconds = [], 0.0
    for utterance in sorted(utterances, key=lambda u: hashlib.sha256(u.id.encode()).digest()):
        if utterance.text is not None:
            found.append(utterance)
            seconds += utterance.duration_seconds
            if seconds >= 3600 * hours:
                return found
    raise DataError(f"there are {seconds / 3600:.1f} hours with a text, but {hours:g} are requested")


def fit(points: dict[float, float]) -> Law:
    """Least-squares fit of log error rates over log hours.

    Raises:
        DataError: there are fewer than two points, or one is not positive.
    """
    if len(points) < 2 or min(*points, *points.values()) <= 0:
        raise DataError("a fit takes two or more numbers of hours, each with an error rate above 0")
    line = statistics.linear_regression([math.log(h) for h in points], [math.log(rate) for rate in points.values()])
    return Law(math.exp(line.intercept), -line.slope)


def table(scores: dict[float, dict[str, float]]) -> str:
    """A row per number of hours, a column per test set, and the power law of each column."""
    names = [*next(iter(scores.values()))]
    laws = {name: fit({hours: rates[name] for hours, rates in scores.items()}) for name in names}
    rows = [["hours", *names], ["---"] * (len(names) + 1)]
    for hours, rates in sorted(scores.items()):
        rows.append([f"{hours:g}", *(f"{100 * rates[name]:.1f} ({100 * laws[name](hours):.1f})" for name in names)])
    rows.append(["law", *(f"{100 * law.at_one:.1f} × hours^-{law.exponent:.2f}" for law in laws.values())])
    rows.append(["twice the hours", *(f"{2**-law.exponent:.2f} times the errors" for law in laws.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _subsets(options: argparse.Namespace) -> None:
    everything = [utterance for path in options.manifests for utterance in manifest.read(path)]
    options.output.mkdir(parents=True, exist_ok=True)
    for hours in options.hours:
        manifest.write(options.output / f"{hours:g}h.jsonl", subset(everything, hours))


def _fit(options: argparse.Namespace) -> None:
    scores = {}
    for argument in options.scores:
        hours, _, path = argument.partition("=")
        try:
            summaries: list[dict[str, Any]] = json.loads(Path(path).read_bytes())["summaries"]
            scores[float(hours)] = {summary["name"]: float(summary["words"]["rate"]) for summary in summaries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{argument}: expected hours=scores.json, as evaluate writes: {error}") from None
    print(table(scores))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
