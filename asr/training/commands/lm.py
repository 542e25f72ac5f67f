"""The command `train-lm`, registered by an entry point."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.commands import options as shared
from asr.terminal import loading, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from asr.text.tokenizer import Tokenizer

__all__ = ["progress_bar", "register"]

_MODEL_SETTINGS = ("embedding_size", "hidden_size", "layers", "dropout")

Texts = Annotated[
    list[str],
    typer.Option(
        "--text",
        metavar="FILE[@N]",
        help="Text with one sentence per line, or JSON lines with a `text`. Repeatable. @N: read N times per pass.",
    ),
]
DevText = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Held-out text for perplexity; by default the last 0.5 % of each text."),
]
Model = Annotated[str, typer.Option(metavar="NAME", help="Model whose tokenizer to use: a shipped model or a folder.")]
TokenizerFile = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="FILE", help="A tokenizer.model, instead of the tokenizer of --model."),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run; an existing run is resumed.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of the run, TOML.")]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Start from this language model, a folder or the name of a model that has one, instead of random weights. "
        "Its size is kept unless --config has a wider one.",
    ),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(min=0.01, help="Time of the whole run, over which the learning rate falls to zero."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="train-lm", rich_help_panel=shared.TRAINING)(train_lm)


def train_lm(
    text: Texts,
    output: Output,
    model: Model = "default",
    tokenizer: TokenizerFile = None,
    config: Config = None,
    init: Init = None,
    dev_text: DevText = None,
    max_minutes: MaxMinutes = None,
    device: shared.Device = "auto",
    threads: shared.Threads = None,
    quiet: shared.Quiet = False,
) -> None:
    """Train a language model over a recogniser's tokens, or resume a run.

    DIR gets lm.safetensors and lm.json: use DIR with --lm, or copy both files into a model's folder.

    Examples:
      spellstream train-lm --text books.txt --output lm --max-minutes 90
      spellstream train-lm --text books.txt --text train.jsonl@20 --model run/best --output lm
      spellstream train-lm --text notes.txt --init lm --output lm2
      spellstream transcribe talk.wav --lm lm --lm-weight 0.3
    """
    loading("PyTorch", quiet)
    with shared.extra("train"):
        from asr.training.lm import data as data
        from asr.training.lm import run as training
        from asr.training.lm.config import LmTrainConfig
        from asr.training.saved_run import read_run_config

    import torch

    from asr import checkpoint, folders
    from asr.recogniser import resolve_device

    if threads is not None:
        torch.set_num_threads(threads)
    settings = read_run_config(config, LmTrainConfig) if config else LmTrainConfig()
    sources = [data.parse_source(name) for name in text]
    if dev_text is not None:
        sources.append(data.parse_source(str(dev_text))._replace(times=0))
    place, spelled = resolve_device(device), _tokenizer(model, tokenizer)
    first = checkpoint.load_lm(folders.find_lm(init), spelled) if init else None
    if first is not None and config is None:
        settings = dataclasses.replace(settings, **{name: getattr(first.config, name) for name in _MODEL_SETTINGS})
    output.mkdir(parents=True, exist_ok=True)
    show = not quiet and sys.stderr.isatty()
    with progress_bar(show) as bar:
        reading = bar.add_task("tokenise")
        sentences = data.tokenise(
            sources, spelled, output, settings, lambda done, total: bar.update(reading, completed=done, total=total)
        )
        bar.remove_task(reading)
        unspelled = (
            f"; left out, since the tokenizer cannot spell them: {sentences.left_out:,}" if sentences.left_out else ""
        )
        say(f"{sentences.learned_tokens:,} training tokens, {sentences.dev_tokens:,} held out{unspelled}")
        learning = bar.add_task("train", total=1.0)
        training.train(
            settings,
            sentences,
            spelled,
            output,
            device=place,
            init=first,
            max_minutes=max_minutes,
            advance=lambda progress, share: bar.update(learning, completed=share, description=f"step {progress.step}"),
            report=typer.echo,
        )
    typer.echo(output)


def _tokenizer(model: str, path: Path | None) -> Tokenizer:
    from asr import folders
    from asr.text.tokenizer import Tokenizer

    return Tokenizer.load(path or folders.find(model) / "tokenizer.model")


def progress_bar(show: bool) -> Bar:
    """Bars of a run on standard error, with a description and the share done; nothing unless `show`."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=True,
        disable=not show,
    )
