"""Options that several commands share, and what they come to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from asr.errors import ConfigError

if TYPE_CHECKING:
    from asr.config import SearchConfig
    from asr.transcribe import Recogniser

__all__ = [
    "BatchSize",
    "BeamSize",
    "CtcWeight",
    "Device",
    "DeviceName",
    "Dtype",
    "DtypeName",
    "LmWeight",
    "ModelName",
    "Quiet",
    "Threads",
    "load",
    "search_config",
    "usage",
]

_MODEL, _SEARCH = "Model", "Search"


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


ModelName = Annotated[
    str, typer.Option("--model", help="A shipped model or a checkpoint folder.", rich_help_panel=_MODEL)
]
Device = Annotated[DeviceName, typer.Option(help="auto: a GPU where there is one.", rich_help_panel=_MODEL)]
Dtype = Annotated[DtypeName, typer.Option(help="What to compute in.", rich_help_panel=_MODEL)]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; all cores if not given.", rich_help_panel=_MODEL)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Stretches of speech at a time.", rich_help_panel=_MODEL)]
BeamSize = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, help="Hypotheses kept; 1 is greedy. The model's own if not given.", rich_help_panel=_SEARCH
    ),
]
CtcWeight = Annotated[
    float | None, typer.Option(min=0, max=1, help="Share of CTC in the score.", rich_help_panel=_SEARCH)
]
LmWeight = Annotated[float | None, typer.Option(min=0, help="Weight of the language model.", rich_help_panel=_SEARCH)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@contextlib.contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """Report a ConfigError as wrong use of an option."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def load(model: str, device: DeviceName, dtype: DtypeName, threads: int | None) -> Recogniser:
    """The recogniser that these options ask for."""
    import torch

    import asr

    if threads is not None:
        torch.set_num_threads(threads)
    return asr.load(model, device.value, dtype.value)


def search_config(
    recogniser: Recogniser,
    beam_size: int | None,
    ctc_weight: float | None,
    lm_weight: float | None,
    nbest: int = 1,
) -> SearchConfig:
    """The model's own search settings, changed where an option was given; the beam is at least `nbest` wide."""
    from dataclasses import replace

    own = recogniser.model.config.search
    with usage():
        return replace(
            own,
            nbest=nbest,
            beam_size=max(own.beam_size, nbest) if beam_size is None else beam_size,
            ctc_weight=own.ctc_weight if ctc_weight is None else ctc_weight,
            lm_weight=own.lm_weight if lm_weight is None else lm_weight,
        )
