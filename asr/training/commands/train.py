"""The commands `train`, `finetune`, `average` and `train-tokenizer`, registered by an entry point."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from asr.commands import options as shared
from asr.terminal import loading, say

__all__ = ["register"]


_WHERE = "Machine"

Config = Annotated[Path, typer.Option(metavar="FILE", help="Settings of the run, TOML.")]
Data = Annotated[
    list[str],
    typer.Option(
        metavar="DIR[@N]", help="A prepared corpus to train on. Repeatable. @N: N times per pass; @0.5: half of it."
    ),
]
Dev = Annotated[Path, typer.Option(metavar="DIR", help="A prepared corpus, used to select the best model.")]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run; an existing run is resumed.")]
Noise = Annotated[
    Path | None,
    typer.Option(metavar="DIR", exists=True, file_okay=False, help="Recordings of background noise."),
]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop after this time (2h30m, 90m, 45s); the run can be resumed.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the config. Repeatable."),
]
Device = Annotated[shared.DeviceName, typer.Option(help="auto: a GPU if there is one.", rich_help_panel=_WHERE)]
Devices = Annotated[int, typer.Option(min=1, help="Devices per node.", rich_help_panel=_WHERE)]
Nodes = Annotated[int, typer.Option(min=1, help="Number of nodes; start torchrun on each.", rich_help_panel=_WHERE)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (train, finetune, average):
        app.command(rich_help_panel=shared.TRAINING)(command)
    app.command(name="train-tokenizer", rich_help_panel=shared.TRAINING)(train_tokenizer)


def train(
    config: Config,
    data: Data,
    dev: Dev,
    output: Output,
    noise: Noise = None,
    max_time: MaxTime = None,
    settings: Settings = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
) -> None:
    """Train a model, or resume a run.

    DIR gets best (the model with the fewest errors on dev), last (the model measured last), models (candidates for
    `average`), measurements.jsonl, tensorboard, and last.ckpt to resume from. Ctrl-C finishes the current step and
    saves.

    Examples:
      spellstream train --config las.toml --data prepared/train --dev prepared/dev --output run
      spellstream train --config las.toml --data librispeech --data mine@3 --dev dev --output run --max-time 8h
      spellstream train --config las.toml --data train --dev dev --output run --devices 4 --set seed=2
    """
    seconds = _seconds(max_time)
    _announce("PyTorch")
    with shared.extra("train"):
        import lightning  # noqa: F401 - report a missing package first

        from asr.training.config import read_config

        read = read_config(config, settings or ())
        _run(read, data, dev, output, noise, seconds, (device, devices, nodes))


def finetune(
    data: Data,
    dev: Dev,
    output: Output,
    model: shared.ModelName = "default",
    noise: Noise = None,
    max_time: MaxTime = None,
    settings: Settings = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
) -> None:
    """Fine-tune a model on your own recordings, or resume a run.

    The learning rate is low and the augmentation light; training ends when errors on dev no longer fall. Dev is also
    measured before the first step, and the initial model stays the best one until another has fewer errors. Mix in some
    of the original kind of data (--data), so that the model does not forget it.

    Examples:
      spellstream finetune --data prepared/mine --dev prepared/mine-dev --output mine
      spellstream finetune --data mine --data librispeech@0.1 --dev mine-dev --output mine --set optimiser.max_steps=500
      spellstream transcribe talk.wav --model mine/best
    """
    seconds = _seconds(max_time)
    _announce(f"the model {model}")
    with shared.extra("train"):
        import lightning  # noqa: F401 - report a missing package first

        from asr.training import average as averages
        from asr.training import finetune

        config = finetune.settings(model, settings or ())
        machine = (device, devices, nodes)
        _run(config, data, dev, output, noise, seconds, machine, measure_first=True)
        _echo(finetune.verdict(averages.measurements(output)))


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new model.")],
    last: Annotated[int | None, typer.Option(min=1, help="Average the models of the last N measurements.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="Average the best N models; default: up to 5.")] = None,
) -> None:
    """Average the weights of several models of a run; the mean is often better than each model.

    Examples:
      spellstream average run --output run/average
      spellstream average run --last 3 --output run/average
    """
    if last is not None and best is not None:
        raise typer.BadParameter("give one of --last and --best", param_hint="--last")
    loading("PyTorch")
    from asr.training import average as averages

    folders = averages.choose(run, last=last, best=best)
    averages.average(folders, output)
    typer.echo(f"{output}: mean of {', '.join(folder.name for folder in folders)}")


def train_tokenizer(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The tokenizer file to write.")],
    vocab_size: Annotated[int, typer.Option(min=5, help="Number of tokens, including four special ones.")],
    data: Annotated[list[Path] | None, typer.Option(metavar="DIR", help="A prepared corpus. Repeatable.")] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Text with one sentence per line. Repeatable.")
    ] = None,
    kind: Annotated[Literal["bpe", "char"], typer.Option(help="Byte-pair units, or characters.")] = "bpe",
) -> None:
    """Train a tokenizer; a config uses it with `tokenizer = "FILE"`.

    Without a given tokenizer, each run trains its own. Runs to be compared, and their language model, need the same
    tokenizer.

    Examples:
      spellstream train-tokenizer --data prepared/train --vocab-size 1000 --output bpe1000.model
      spellstream train-tokenizer --text librispeech-lm-norm.txt --vocab-size 10000 --output bpe10k.model
    """
    if not data and not text:
        raise typer.BadParameter("give training text: --data or --text", param_hint="--data")
    from asr.files import require_folder, write_atomically
    from asr.text.tokenizer import Tokenizer

    require_folder(output)
    sentences = [*_texts(data or []), *_lines(text or [])]
    tokenizer = Tokenizer.train(sentences, vocab_size, kind)
    write_atomically(output, tokenizer.model)
    typer.echo(f"{output}: {len(tokenizer)} {kind} tokens from {len(sentences)} sentences")


def _run(
    config: Any,
    data: list[str],
    dev: Path,
    output: Path,
    noise: Path | None,
    max_seconds: float | None,
    machine: tuple[str, int, int],
    measure_first: bool = False,
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    from asr.training.precision import has_bfloat16
    from asr.training.run import Machine
    from asr.training.run import train as train_model

    if config.precision == "bf16" and not has_bfloat16(machine[0]):
        rank_zero_only(say)("this processor has no bfloat16: training in float32")
    corpora = [_weighted(name) for name in data]
    best = train_model(
        config,
        [folder for folder, _ in corpora],
        dev,
        output,
        weights=[weight for _, weight in corpora],
        noise=noise,
        max_seconds=max_seconds,
        machine=Machine(*machine),
        measure_first=measure_first,
    )
    _echo(best)


def _announce(what: str) -> None:
    """Announce what is being loaded, on one process of a machine."""
    loading(what, quiet=os.environ.get("LOCAL_RANK", "0") != "0")


def _echo(message: object) -> None:
    """Print in the main process."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only(typer.echo)(message)


def _weighted(name: str) -> tuple[Path, float]:
    """Parse `DIR@N` into a folder and its number of reads per pass; a folder's own name may look like that."""
    folder, at, times = name.rpartition("@")
    if at and not Path(name).exists():
        try:
            return Path(folder), float(times)
        except ValueError:
            pass
    return Path(name), 1.0


def _seconds(max_time: str | None) -> float | None:
    if max_time is None:
        return None
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", max_time.replace(" ", ""))
    seconds = sum(float(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0.0
    if not seconds:
        raise typer.BadParameter(f"{max_time!r} is not a duration: write 2h30m, 90m or 45s", param_hint="--max-time")
    return seconds


def _texts(folders: list[Path]) -> Iterator[str]:
    if folders:
        with shared.extra("train"):
            from asr.training.data import Corpus
        yield from (entry.text for entry in Corpus.open(folders).entries)


def _lines(paths: list[Path]) -> Iterator[str]:
    """Normalised sentences of text files, without those outside the alphabet."""
    from asr.errors import DataError
    from asr.text.normalise import normalise

    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                yield from filter(None, map(normalise, file))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not text in UTF-8: {error}") from None
