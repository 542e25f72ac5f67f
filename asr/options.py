"""The command's options, and what those that several commands share come to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr.errors import ConfigError
from asr.formats import FORMATS, parse_formats

if TYPE_CHECKING:
    from asr.config import SearchConfig
    from asr.transcribe import Recogniser

__all__ = ["DeviceName", "DtypeName", "formats", "load", "usage"]


class DeviceName(str, Enum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DtypeName(str, Enum):
    """The kind of number it computes with."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


# --- the model and its search -----------------------------------------------------------------------------------------

_MODEL, _SEARCH = "Model", "Search (the model's own settings where not given)"

ModelName = Annotated[
    str, typer.Option("--model", help="A shipped model or a checkpoint folder.", metavar="NAME", rich_help_panel=_MODEL)
]
Device = Annotated[DeviceName, typer.Option(help="auto: a GPU where there is one.", rich_help_panel=_MODEL)]
Dtype = Annotated[DtypeName, typer.Option(help="What to compute in.", rich_help_panel=_MODEL)]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; all if not given.", rich_help_panel=_MODEL)]
BatchSize = Annotated[int, typer.Option(min=1, help="Stretches of speech at a time.", rich_help_panel=_MODEL)]
BeamSize = Annotated[
    int | None, typer.Option(min=1, max=256, help="Hypotheses that are kept; 1 is greedy.", rich_help_panel=_SEARCH)
]
CtcWeight = Annotated[
    float | None, typer.Option(min=0, max=1, help="CTC's share in the score.", rich_help_panel=_SEARCH)
]
LmWeight = Annotated[float | None, typer.Option(min=0, help="Weight of the language model.", rich_help_panel=_SEARCH)]

# --- transcribe -------------------------------------------------------------------------------------------------------

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE", help="A file, a folder, or - for standard input.")]
OutputDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write DIR/talk.wav.txt and so on, folders as they are; else standard output."),
]
Format = Annotated[str, typer.Option("--format", metavar="NAMES", help=f"{', '.join(FORMATS)} (with commas) or all.")]
WordTimestamps = Annotated[
    bool | None,
    typer.Option("--word-timestamps/--no-word-timestamps", help="Time each word. On for json, srt and vtt."),
]
Nbest = Annotated[int, typer.Option(min=1, max=256, help="So many alternatives of each segment, in json.")]
Resume = Annotated[bool, typer.Option("--resume", help="Skip what the output folder holds already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

# --- evaluate ---------------------------------------------------------------------------------------------------------

Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON lines: id, audio, duration, text.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write all scores, too; - in place of the table.")
]
Worst = Annotated[int, typer.Option(min=0, help="Show so many of the worst utterances, aligned.")]
Confusions = Annotated[int, typer.Option(min=0, help="Show so many of the most frequent errors.")]
Corpora = Annotated[list[str] | None, typer.Option("--corpus", metavar="NAME", help="Only this; may be given again.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many utterances.")]

# --- pack and train ---------------------------------------------------------------------------------------------------

Manifests = Annotated[list[Path], typer.Argument(metavar="MANIFEST", help="JSON lines: id, audio, duration, text.")]
PackedOutput = Annotated[Path, typer.Option(metavar="DIR", help="The packed corpus; what it held is replaced.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that decode.")]
Config = Annotated[Path, typer.Option(metavar="FILE", help="The run's settings, TOML.")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="A packed corpus to learn from.")]
Dev = Annotated[Path, typer.Option(metavar="DIR", help="A packed corpus to choose the best model by.")]
RunOutput = Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; a run found there goes on.")]
Noise = Annotated[
    Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Recordings of background noise.")
]
MaxMinutes = Annotated[float | None, typer.Option(min=0.1, help="Stop after so long, ready to go on.")]

# --- plot and info ----------------------------------------------------------------------------------------------------

PlotSource = Annotated[str, typer.Argument(metavar="FILE", help="Audio or video, or - for standard input.")]
Picture = Annotated[Path | None, typer.Option(metavar="PNG", help="FILE.png in this folder if not given.")]
InfoModel = Annotated[str | None, typer.Option(metavar="NAME", help="Tell about this model, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@contextlib.contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """Report a ConfigError as wrong use of an option."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def formats(names: str, *, to_files: bool, several: bool, resume: bool, nbest: int) -> tuple[str, ...]:
    """The formats that `names` lists, checked against the other options of `transcribe`."""
    with usage("--format"):
        chosen = parse_formats(names)
        if not to_files and len(chosen) > 1:
            raise ConfigError(f"several formats ({names}) need an --output-dir")
        if not to_files and several and chosen[0] not in ("txt", "json"):
            raise ConfigError(f"{chosen[0]} of several sources needs an --output-dir")
    if resume and not to_files:
        raise typer.BadParameter("it needs an --output-dir", param_hint="--resume")
    if nbest > 1 and "json" not in chosen:
        raise typer.BadParameter("alternatives are shown in json alone: add --format json", param_hint="--nbest")
    return chosen


def load(
    model: str,
    device: DeviceName,
    dtype: DtypeName,
    threads: int | None,
    *,
    beam_size: int | None,
    ctc_weight: float | None,
    lm_weight: float | None,
    nbest: int = 1,
) -> tuple[Recogniser, SearchConfig]:
    """The recogniser that the options ask for, and its own search settings with those given in their place.

    The beam is at least as wide as `nbest`, unless it was given.
    """
    import asr

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    recogniser = asr.load(model, device.value, dtype.value)
    own = recogniser.model.config.search
    if lm_weight and recogniser.lm is None:
        raise typer.BadParameter(f"the model {model} comes without a language model", param_hint="--lm-weight")
    with usage():
        return recogniser, replace(
            own,
            nbest=nbest,
            beam_size=max(own.beam_size, nbest) if beam_size is None else beam_size,
            ctc_weight=own.ctc_weight if ctc_weight is None else ctc_weight,
            lm_weight=own.lm_weight if lm_weight is None else lm_weight,
        )
