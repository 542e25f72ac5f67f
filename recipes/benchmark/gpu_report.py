"""Results of `gpu.py`: a JSON file to which several runs add, and its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import DataError
from asr.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Results", "largest", "table"]


class Results:
    """Measurements by part, each a row with its settings and numbers; saved at once if there is a file.

    Args:
        path: the file; None: nothing is saved.
        facts: origin of the numbers. Only the command may differ between runs.

    Raises:
        DataError: the file holds something else, or results of another model, GPU or version.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, str]) -> None:
        self._path = path
        common = {name: value for name, value in facts.items() if name != "command"}
        self.data: dict[str, Any] = {"origin": common, "commands": []}
        if path is not None and path.exists():
            self.data = _read(path)
            differing = [n for n in common if self.data["origin"].get(n) != common[n]]
            if differing:
                before, now = (f"{differing[0]} {of.get(differing[0])}" for of in (self.data["origin"], common))
                raise DataError(f"{path}: has results of {before}, this run is of {now}; choose another file")
        self.data["commands"].append(facts["command"])

    def has(self, part: str, settings: Mapping[str, Any]) -> bool:
        """Whether a part has been measured with these settings."""
        return any(settings.items() <= row.items() for row in self.data.get(part, []))

    def add(self, part: str, settings: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        """Add a row and save."""
        self.data.setdefault(part, []).append({**settings, **numbers})
        if self._path is not None:
            write_atomically(self._path, json.dumps(self.data, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(data["origin"], dict) and isinstance(data["commands"], list)
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise DataError(f"{path}: not a file of this benchmark; choose another one")
    found: dict[str, Any] = data
    return found


def largest(rows: list[dict[str, Any]]) -> int:
    """The largest measured number of streams such that it and all smaller ones keep up; 0 if none does."""
    count = 0
    for row in sorted(rows, key=lambda row: row["streams"]):
        if not row["keeps_up"]:
            break
        count = row["streams"]
    return count


def table(data: Mapping[str, Any]) -> Table:
    """A row for each measurement, in the order of parts and settings."""
    from rich.table import Table

    made = Table()
    for heading in ("", "dtype"):
        made.add_column(heading, no_wrap=True)
    for heading in ("result", "times real time", "peak MiB"):
        made.add_column(heading, justify="right")

    for row in data.get("streams", []):
        median, p95 = (1000 * row["step_seconds"][name] for name in ("median", "p95"))
        result = f"{median:.0f} / {p95:.0f} ms for {1000 * row['chunk_seconds']:.0f} ms"
        name = "1 stream" if row["streams"] == 1 else f"{row['streams']} streams"
        rate = _rate(row["streams"] / row["real_time_factor"])
        made.add_row(f"{name}, p50 / p95", row["dtype"], result, rate, _mib(row))
    for dtype in dict.fromkeys(row["dtype"] for row in data.get("streams", [])):
        count = largest([row for row in data["streams"] if row["dtype"] == dtype])
        made.add_row("largest number that keeps up", dtype, f"{count} streams", "", "")
    for row in data.get("files", []):
        result = f"{row['audio_seconds']:.0f} s in {row['seconds']:.2f} s"
        name = f"files, batch {row['batch']}, {row['search']}"
        made.add_row(name, row["dtype"], result, _rate(row["rtfx"]), _mib(row))
    for row in data.get("training", []):
        name = f"training, {row['size']}, {row['parameters'] / 1e6:.1f} M weights"
        made.add_row(name, row["dtype"], "", _rate(row["hours_per_hour"]), _mib(row))
    return made


def _rate(times: float) -> str:
    return f"{times:,.0f}" if times >= 10 else f"{times:.2f}"


def _mib(row: Mapping[str, Any]) -> str:
    return "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"
