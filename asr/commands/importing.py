"""`spellstream import`: conversion of other toolkits' models to folders in our format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from asr.errors import CheckpointError
from asr.folders import SOURCE, home
from asr.hub import Reference, fetch, is_reference
from asr.terminal import loading, say

__all__ = ["import_model"]


_FILES = ("hyperparams.yaml", "*.ckpt", "README.md")


Kind = Annotated[Literal["speechbrain"], typer.Argument(metavar="TOOLKIT", help="speechbrain")]
From = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with hyperparams.yaml and checkpoints, or hub:OWNER/NAME, optionally with @REVISION.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Folder of the new model; by default one of your own models."),
]
CtcWeight = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="W", help="Weight of the CTC head in the search, instead of the recipe's."),
]
Halves = Annotated[bool, typer.Option("--half", help="Store weights as float16: half the size, and faster on a CPU.")]


def import_model(
    toolkit: Kind, source: From, output: Folder = None, half: Halves = False, ctc_weight: CtcWeight = None
) -> None:
    """Convert another toolkit's model to a folder that all commands accept.

    Supported SpeechBrain models are attention models with a CRDNN encoder, such as those for LibriSpeech and
    CommonVoice, and their recurrent language models (RNNLM). A Transformer language model is left out, with a note:
    train another with `spellstream train-lm`, and use it with `--lm`. Transformer encoders and transducers are refused.
    Nothing in the source is executed; unsupported parts are named.

    The search keeps the weights of the model's recipe, so that texts are the same. Many recipes do not use the CTC head
    in their search; try a weight of 0.3 with `transcribe --ctc-weight`, or with --ctc-weight here for all commands.

    Without --output, the model's name is the last part of SOURCE, and `spellstream models` lists it.

    Examples:
      spellstream import speechbrain hub:speechbrain/asr-crdnn-rnnlm-librispeech
      spellstream transcribe talk.wav --model asr-crdnn-rnnlm-librispeech
      spellstream import speechbrain downloads/crdnn --output crdnn --half
      spellstream transcribe talk.wav --model crdnn
    """
    output = output or home() / _name(source)
    if not is_reference(source) and not Path(source).is_dir():
        raise CheckpointError(f"{source}: no such folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: already exists; choose a new or an empty folder")

    folder, revision, licence = _fetched(source) if is_reference(source) else (Path(source), None, None)
    loading(f"the {toolkit} model {source}")
    import torch

    from asr import checkpoint
    from asr.files import write_atomically
    from asr.importing.speechbrain import read

    imported = read(folder)
    config = imported.model.config
    if ctc_weight is not None:
        imported.model.config = replace(config, search=replace(config.search, ctc_weight=ctc_weight))
    dtype = torch.float16 if half else torch.float32
    if imported.lm is not None:
        checkpoint.save_lm(output, imported.lm, imported.tokenizer, dtype)
    facts = {"source": str(source), "toolkit": toolkit, "revision": revision, "licence": licence}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / SOURCE, json.dumps(facts, indent=2) + "\n")
    checkpoint.save(output, imported.model, imported.tokenizer, dtype)
    for note in imported.notes:
        say(f"{source}: {note}")
    if ctc_weight is None and config.search.ctc_weight == 0 and config.search.beam_size > 1:
        say(f"{source}: its search does not use the CTC head; to try it, transcribe or import with --ctc-weight 0.3")
    typer.echo(output)


def _name(source: str) -> str:
    """The last part of the source's name."""
    return Reference.parse(source).repository.split("/")[1] if is_reference(source) else Path(source).resolve().name


def _fetched(name: str) -> tuple[Path, str, str | None]:
    """A repository's folder, commit and licence. Its checkpoints are pickles, which are read as data alone."""
    found = fetch(name, take=_FILES, refuse=())
    licence = found.card.get("license")
    return found.folder, found.revision, None if licence is None else str(licence)
