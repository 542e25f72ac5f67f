"""Origin of a benchmark's numbers: command, commit, weights, processor; and printing of results."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from asr.folders import WEIGHTS
from asr.hub.listing import sha256
from recipes.status import status

if TYPE_CHECKING:
    import torch
    from rich.table import Table

__all__ = ["Report", "origin", "processor", "report", "show", "weights"]


def origin(benchmark: str, arguments: Sequence[str], device: torch.device | None = None) -> dict[str, str]:
    """Command line of a benchmark, commit of the code, and name of the processor or GPU."""
    return {
        "command": shlex.join(["python", "-m", f"recipes.benchmark.{benchmark}", *arguments]),
        "commit": _commit() or "unknown",
        "processor": processor(device),
    }


def weights(folder: Path) -> dict[str, str]:
    """Checksum of the model in a checkpoint folder."""
    return {"model": str(folder), "weights sha256": sha256(folder / WEIGHTS)}


def processor(device: torch.device | None = None) -> str:
    """Name of the CPU, or of the GPU `device`."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


class Report(NamedTuple):
    """Results of a benchmark: data, table, and origin."""

    data: Mapping[str, Any]  # for JSON
    table: Table
    facts: Mapping[str, str]


def report(benchmark: Callable[[], Report], as_json: bool) -> int:
    """Run a benchmark and print its results; returns the exit status."""

    def work() -> None:
        found = benchmark()
        if as_json:
            print(json.dumps(found.data, indent=2))
        else:
            show(found.table, found.facts)

    return status("error", work)


def show(table: Table, facts: Mapping[str, str]) -> None:
    """Print a table and below it the origin of its numbers."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _commit() -> str | None:
    """Commit of the code, marked if there are changes; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
