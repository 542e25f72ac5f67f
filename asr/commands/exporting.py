"""`spellstream export`: a model in a format for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from asr.commands import options as opt
from asr.terminal import loading, say

__all__ = ["export_model"]


Wanted = Annotated[Literal["onnx"], typer.Argument(metavar="FORM", help="onnx")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a name, or hub:OWNER/NAME.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write, new or empty.")]


def export_model(form: Wanted, model: Model, output: Output, quiet: opt.Quiet = False) -> None:
    """Write a model as ONNX graphs, which onnxruntime runs without PyTorch, and print the file names.

    There are graphs for the features, the encoder (whole, and in steps of a stream), the CTC head, the decoder's memory
    and step, and the step of the language model, for any batch size and length. The folder also gets the tokenizer and
    metadata.json: names and sizes of inputs, tokens, features, chunks. Weights are float32.

    recipes/examples/onnx_transcribe.py transcribes with the graphs. Needs pip install 'spellstream[onnx]'.

    Examples:
      spellstream export onnx default --output graphs
      spellstream export onnx hub:OWNER/NAME --output graphs
    """
    loading(f"the model {model}")
    from asr.exporting import export

    files = export(model, output)
    if not quiet:
        total = sum(path.stat().st_size for path in files)
        say(f"{len(files)} files, {total / 1e6:.1f} MB")
    for path in files:
        typer.echo(path)
