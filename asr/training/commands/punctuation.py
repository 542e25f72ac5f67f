"""The command `train-punctuation`, registered by an entry point."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from asr.commands import options as shared
from asr.terminal import loading, say
from asr.training.commands.lm import Config, MaxMinutes, Output, progress_bar

__all__ = ["register"]

Texts = Annotated[
    list[str],
    typer.Argument(
        metavar="TEXT[@N]",
        help="Text with marks and capitals, a sentence or paragraph per line. @N: read N times per pass.",
        show_default=False,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Start from this punctuation model, a folder or the name of a model that has one, instead of random "
        "weights. Its size and frequent words are kept.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="train-punctuation", rich_help_panel=shared.TRAINING)(train_punctuation)


def train_punctuation(
    text: Texts,
    output: Output,
    init: Init = None,
    config: Config = None,
    max_minutes: MaxMinutes = None,
    device: shared.Device = "auto",
    threads: shared.Threads = None,
    quiet: shared.Quiet = False,
) -> None:
    """Train a model for punctuation and capitals from written text, or resume a run.

    The end of each text is held out to measure F1 of each mark and of capitals. DIR gets punctuation.safetensors and
    punctuation.json: copy both files into a model's folder.

    Examples:
      spellstream train-punctuation articles.txt talks.txt --output marks --max-minutes 60
      spellstream train-punctuation articles.txt minutes.txt@5 --output marks
      spellstream train-punctuation minutes.txt --init default --output marks --max-minutes 20
    """
    loading("PyTorch", quiet)
    with shared.extra("train"):
        from asr.training.lm.data import parse_source
        from asr.training.punctuation import run as training
        from asr.training.punctuation.config import PunctuationTrainConfig
        from asr.training.punctuation.data import read_texts
        from asr.training.saved_run import read_run_config

    import torch

    from asr import checkpoint, folders
    from asr.config import PunctuationConfig
    from asr.errors import ConfigError
    from asr.recogniser import resolve_device

    if threads is not None:
        torch.set_num_threads(threads)
    settings = read_run_config(config, PunctuationTrainConfig) if config else PunctuationTrainConfig()
    first = None
    if init is not None:
        folder = folders.find_punctuation(init)
        if folder.resolve() == output.resolve():
            raise typer.BadParameter("is the folder of --init, which it would overwrite", param_hint="--output")
        first = checkpoint.load_punctuation(folder)
        if settings.model not in (PunctuationConfig(), first.network.config):
            raise ConfigError(f"{config}: [model] differs from the model of --init; leave it out")
        settings = dataclasses.replace(settings, model=first.network.config)
    sources = [parse_source(name) for name in text]
    place = resolve_device(device)
    output.mkdir(parents=True, exist_ok=True)
    show = not quiet and sys.stderr.isatty()
    with progress_bar(show) as bar:
        reading = bar.add_task("read")
        texts = read_texts(
            sources,
            output,
            settings.model,
            settings.held_out,
            lambda done, total: bar.update(reading, completed=done, total=total),
            first.vocabulary if first else None,
        )
        bar.remove_task(reading)
        say(f"{texts.learned_words:,} training words, {texts.held_out_words:,} held out")
        learning = bar.add_task("train", total=1.0)
        training.train(
            settings,
            texts,
            output,
            device=place,
            init=first.network if first else None,
            max_minutes=max_minutes,
            advance=lambda progress, share: bar.update(learning, completed=share, description=f"step {progress.step}"),
            report=typer.echo,
        )
    typer.echo(output)
