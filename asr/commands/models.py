"""`spellstream models` and `download`: the list of models, and download of a model from the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from asr.commands import options as opt
from asr.folders import CONFIG, FILES, TOKENIZER, find, home, origin, pretrained
from asr.terminal import say

__all__ = ["register"]

_FOREIGN = "hyperparams.yaml"  # marks a SpeechBrain model

Name = Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="A repository on the hub.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=opt.MODELS)(models)
    app.command(rich_help_panel=opt.MODELS)(download)


def models(as_json: opt.AsJson = False) -> None:
    """List the models that --model knows by name: name, kind, size, revision, folder.

    Shipped models are part of the program, own models are in $SPELLSTREAM_HOME/models, cached models were downloaded
    from the hub. A cached SpeechBrain model has to be imported first.

    Examples:
      spellstream models
      spellstream models --json
    """
    rows = list(_rows())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    shown = [
        (r["name"], r["kind"], f"{r['bytes'] / 1e6:.1f} MB", (r["revision"] or "-")[:12], r["folder"]) for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def download(name: Name, quiet: opt.Quiet = False) -> None:
    """Download a model from the hub into the cache, and print its folder.

    Repeat the command to resume an interrupted download. Every file is verified by its checksum. A repository with a
    pickle is refused.

    The cache is shared with huggingface_hub (HF_HOME); HF_ENDPOINT names another hub.

    Examples:
      spellstream download OWNER/NAME
      spellstream transcribe talk.wav --model hub:OWNER/NAME
    """
    from asr.hub import Reference, fetch

    Reference.parse(name)
    snapshot = fetch(name, take=FILES, show=not quiet and sys.stderr.isatty())
    if not (snapshot.folder / CONFIG).is_file():
        say(f"{name}: has no {CONFIG}, so it is not a model of this program")
        raise typer.Exit(1)
    typer.echo(snapshot.folder)


def _rows() -> Iterator[dict[str, Any]]:
    from asr.hub.cached import cached_models

    for name in pretrained():
        yield _row(name, "shipped", find(name))
    for path in sorted(home().glob(f"*/{CONFIG}")):
        yield _row(path.parent.name, "own", path.parent)
    for kind, mark in (("cached", CONFIG), ("SpeechBrain's", _FOREIGN)):
        for name, revision, folder, size in cached_models(mark):
            if mark == _FOREIGN or (folder / TOKENIZER).is_file():  # many other programs have a config.json
                yield {"name": name, "kind": kind, "bytes": size, "revision": revision, "folder": str(folder)}


def _row(name: str, kind: str, folder: Path) -> dict[str, Any]:
    """A model in a folder, with its original revision from `source.json`."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    revision = origin(folder).get("revision")
    return {"name": name, "kind": kind, "bytes": size, "revision": revision, "folder": str(folder)}
