"""`spellstream publish`: a model's folder in the form that the hub expects."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from asr.commands import options as opt
from asr.terminal import loading, say

__all__ = ["publish"]

_OWNER = "OWNER"  # owner if no repository is named

Model = Annotated[str, typer.Argument(metavar="DIR", help="A model: its folder, or its name.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write, new or empty.")]
Repository = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", help="Repository on the hub."),
]
Licence = Annotated[
    str | None, typer.Option("--licence", "--license", metavar="NAME", help="Licence: apache-2.0, cc-by-4.0, other, …")
]
Languages = Annotated[
    list[str] | None, typer.Option("--language", metavar="CODE", help="Language, such as en or de; repeatable.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag for the hub's search; repeatable.")]
Metrics = Annotated[Path | None, typer.Option(metavar="JSON", help="Error rates from spellstream evaluate --json.")]


def publish(
    model: Model,
    output: Output,
    repository: Repository = None,
    licence: Licence = None,
    language: Languages = None,
    tag: Tags = None,
    metrics: Metrics = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write a model's folder in the form that the Hugging Face hub expects, and print the command that uploads it.

    The model is loaded first, so that no broken model is published, and only a model's files are copied. The card,
    README.md, keeps its text and gets the metadata block that the hub reads. spellstream download verifies
    the files by SHA256SUMS. Nothing is uploaded.

    Examples:
      spellstream publish runs/best --output upload --licence cc-by-4.0
      spellstream evaluate test.jsonl --model runs/best --json scores.json
      spellstream publish runs/best --output upload --metrics scores.json
    """
    from asr.hub import Reference
    from asr.hub.card import CardFacts

    repository = repository or f"{_OWNER}/{Path(model).resolve().name}"
    repository = Reference.parse(repository).repository
    loading(f"the model {model}")
    from asr import publishing

    facts = CardFacts(
        repository=repository,
        licence=licence,
        languages=language or (),
        tags=tag or (),
        rates=publishing.read_rates(metrics) if metrics else (),
    )
    for advice in publishing.publish(model, output, facts):
        if not quiet:
            say(advice)
    typer.echo(shlex.join(["hf", "upload", repository, str(output), "."]))
