"""Options shared by several commands, and construction of the recogniser from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from asr.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    from asr.audio.segment import SegmentConfig
    from asr.config import SearchConfig
    from asr.recogniser import Recogniser
    from asr.writing.hotwords import Hotwords

__all__ = [
    "MODELS",
    "RECOGNITION",
    "TRAINING",
    "DeviceName",
    "DtypeName",
    "HotwordsOption",
    "ModelOptions",
    "SearchOptions",
    "SegmentOptions",
    "extra",
    "hotwords_given",
    "load",
    "spell",
    "track_option",
    "usage",
]


# The groups of commands in `spellstream --help`.
RECOGNITION, MODELS, TRAINING = "Speech to text", "Models", "Training"

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["float32", "bfloat16", "float16"]

_MODEL, _SEARCH = "Model", "Search (default: the model's own settings)"

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="A name that `spellstream models` lists, a checkpoint folder, or hub:OWNER/NAME.",
        metavar="NAME",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[DeviceName, typer.Option(help="auto: a GPU if there is one.", rich_help_panel=_MODEL)]
Dtype = Annotated[
    DtypeName, typer.Option(help="Data type of the computation; bfloat16 is meant for GPUs.", rich_help_panel=_MODEL)
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.", rich_help_panel=_MODEL)]
BatchSize = Annotated[int, typer.Option(min=1, help="Segments decoded together.", rich_help_panel=_MODEL)]
Lm = Annotated[
    str | None,
    typer.Option(
        "--lm",
        metavar="LM",
        help="Language model to use instead of the model's own: a folder, a name, or hub:OWNER/NAME.",
        rich_help_panel=_MODEL,
    ),
]
BeamSize = Annotated[
    int | None, typer.Option(min=1, max=256, help="Hypotheses kept; 1 is greedy.", rich_help_panel=_SEARCH)
]
BeamMargin = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Drop hypotheses more than this many nats below the best; 0 drops none.",
        rich_help_panel=_SEARCH,
    ),
]
CtcWeight = Annotated[
    float | None, typer.Option(min=0, max=1, help="Weight of the CTC score, 0 to 1.", rich_help_panel=_SEARCH)
]
LmWeight = Annotated[
    float | None, typer.Option(min=0, help="Weight of the language model; 0 turns it off.", rich_help_panel=_SEARCH)
]
HotwordsOption = Annotated[
    str | None,
    typer.Option(
        "--hotwords",
        metavar="LIST|FILE",
        help="Names and terms to listen for: 'Nextcloud, Siobhán:1.5' (1.5 is a weight), or a file with one per line. "
        "Useful weights are 0.5 to 1.5; from 2 on, a name may replace other words. At most 5.",
        rich_help_panel=_SEARCH,
    ),
]
_SEGMENTS = "Segments"
MinSilenceMs = Annotated[
    int, typer.Option(min=1, metavar="MS", help="Silence that ends a segment.", rich_help_panel=_SEGMENTS)
]
SpeechThreshold = Annotated[
    float,
    typer.Option(
        min=0.01, max=0.99, metavar="P", help="Speech probability that starts a segment.", rich_help_panel=_SEGMENTS
    ),
]
MaxSeconds = Annotated[
    float, typer.Option(min=1, max=60, metavar="S", help="Longest segment.", rich_help_panel=_SEGMENTS)
]


def track_option(panel: str | None = None) -> Any:
    """The parameter `--track`, the same in every command that reads files."""
    return typer.Option(
        "--track",
        metavar="N|LANG",
        help="Audio track: a number from 1, or a language (fre, fra, fr). Default: English, else the file's default.",
        rich_help_panel=panel,
    )


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class ModelOptions:
    """The model and where it runs."""

    model: ModelName = "default"
    device: Device = "auto"
    lm: Lm = None
    threads: Threads = None


@dataclass(frozen=True)
class SearchOptions:
    """Search settings that replace the model's own; None keeps the model's."""

    beam_size: BeamSize = None
    beam_margin: BeamMargin = None
    ctc_weight: CtcWeight = None
    lm_weight: LmWeight = None

    def settings(self, own: SearchConfig, nbest: int = 1) -> SearchConfig:
        """The model's own settings, overridden by the given ones; the beam is at least `nbest` unless given."""
        with usage():
            return replace(
                own,
                nbest=nbest,
                beam_size=max(own.beam_size, nbest) if self.beam_size is None else self.beam_size,
                beam_margin=own.beam_margin if self.beam_margin is None else self.beam_margin,
                ctc_weight=own.ctc_weight if self.ctc_weight is None else self.ctc_weight,
                lm_weight=own.lm_weight if self.lm_weight is None else self.lm_weight,
            )


@dataclass(frozen=True)
class SegmentOptions:
    """Where audio is cut into segments."""

    min_silence_ms: MinSilenceMs = 700
    speech_threshold: SpeechThreshold = 0.5
    max_seconds: MaxSeconds = 20.0

    def settings(self) -> SegmentConfig:
        """The segment settings; other values are derived from the options where their defaults would not fit.

        Raises:
            typer.BadParameter: a setting is out of its bounds.
        """
        from asr.audio.segment import SegmentConfig

        with usage():
            return SegmentConfig(
                max_seconds=self.max_seconds,
                min_silence_ms=self.min_silence_ms,
                padding_ms=min(SegmentConfig.padding_ms, self.min_silence_ms // 2),
                speech_threshold=self.speech_threshold,
                silence_threshold=min(SegmentConfig.silence_threshold, self.speech_threshold),
            )


@contextlib.contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """Report a ConfigError as wrong use of an option."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def hotwords_given(value: str | None) -> Hotwords | None:
    """The list given by `--hotwords`.

    Raises:
        typer.BadParameter: it cannot be read, or a hotword is wrong.
    """
    from asr.writing.hotwords import Hotwords

    with usage("--hotwords"):
        return Hotwords.given(value)


def spell(recogniser: Recogniser, hotwords: Hotwords | None, search: SearchConfig) -> None:
    """Refuse hotwords that the model cannot spell, or that greedy search cannot use, before any work is done."""
    if hotwords and search.beam_size == 1:
        raise typer.BadParameter("greedy search (a beam of 1) does not use it", param_hint="--hotwords")
    with usage("--hotwords"):
        recogniser.spell(hotwords)


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Name the extra to install if one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DependencyError(f"the package {package} is missing: pip install 'spellstream[{name}]'") from error


def load(
    model: ModelOptions,
    search: SearchOptions = SearchOptions(),
    *,
    dtype: DtypeName = "float32",
    nbest: int = 1,
) -> tuple[Recogniser, SearchConfig]:
    """The recogniser and the search settings given by the options.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded.
        typer.BadParameter: options that contradict each other or the model.
    """
    import asr

    if model.threads is not None:
        import torch

        torch.set_num_threads(model.threads)
    recogniser = asr.load(model.model, model.device, dtype, model.lm)
    config = search.settings(recogniser.model.config.search, nbest)

    if config.beam_size == 1:
        unused = {
            "--lm": model.lm,
            "--lm-weight": search.lm_weight,
            "--ctc-weight": search.ctc_weight,
            "--beam-margin": search.beam_margin,
        }
        for option, given in unused.items():
            if given:
                raise typer.BadParameter("greedy search (a beam of 1) does not use it", param_hint=option)
        config = replace(config, lm_weight=0.0, ctc_weight=0.0, length_bonus=0.0)
    elif model.lm is not None and search.lm_weight is None and config.lm_weight == 0:
        raise typer.BadParameter(f"its weight in the model {model.model} is 0: add --lm-weight", param_hint="--lm")
    with usage("--lm-weight"):
        recogniser.language_model(config)  # a broken language model is reported before any work is done
    return recogniser, config
