"""Options shared by `spellstream listen` and `spellstream serve`, and construction of the engine from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asr.commands.options import DtypeName, ModelOptions, SearchOptions, load, spell, usage
from asr.writing.parts import Style

if TYPE_CHECKING:
    from asr.writing.hotwords import Hotwords
    from streaming.engine import Engine, StreamConfig

__all__ = ["StreamOptions", "StyleOption", "make_engine"]


_SEGMENTS = "Segments and words"

MinSilenceMs = Annotated[
    int, typer.Option(min=1, metavar="MS", help="Silence that ends a segment.", rich_help_panel=_SEGMENTS)
]
SpeechThreshold = Annotated[
    float,
    typer.Option(
        min=0.01,
        max=0.99,
        metavar="P",
        help="Speech probability that starts a segment.",
        rich_help_panel=_SEGMENTS,
    ),
]
MaxSeconds = Annotated[
    float, typer.Option(min=2, max=60, metavar="S", help="Longest segment.", rich_help_panel=_SEGMENTS)
]
Policy = Annotated[
    Literal["ctc", "attention", "agreement"],
    typer.Option(
        help="When a word is committed. ctc, attention: its CTC or attention span ends --margin-ms before the latest "
        "audio (more for an uncertain word; with ctc, less if two consecutive searches found it). agreement: two "
        "consecutive searches found it.",
        rich_help_panel=_SEGMENTS,
    ),
]
MarginMs = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="MS",
        help="Distance from the latest audio at which words are committed, see --policy. A larger margin gives fewer "
        "wrong words, but commits them later.",
        rich_help_panel=_SEGMENTS,
    ),
]
ShowMarginMs = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="MS",
        help="An uncertain word that ends within this distance of the latest audio is shown only if two consecutive "
        "searches found it; the distance is smaller for more certain words. With a larger margin, fewer shown words "
        "change, but words are shown later.",
        rich_help_panel=_SEGMENTS,
    ),
]
ChunkMs = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="MS", help="Audio encoded at a time; the model's own by default.", rich_help_panel=_SEGMENTS
    ),
]
LookaheadMs = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="MS",
        help="Audio after a chunk that the encoder waits for; the model's own by default.",
        rich_help_panel=_SEGMENTS,
    ),
]
OverlapMs = Annotated[
    int,
    typer.Option(
        min=0,
        max=10_000,
        metavar="MS",
        help="Audio encoded again with each new chunk. A larger overlap gives fewer wrong words for more computing, at "
        "the same delay.",
        rich_help_panel=_SEGMENTS,
    ),
]


StyleOption = Annotated[
    Style,
    typer.Option(
        "--style",
        help="written: capitals, punctuation and digits; spoken: the words as recognised, in lower case.",
        rich_help_panel=_SEGMENTS,
    ),
]


@dataclass(frozen=True)
class StreamOptions:
    """How streams are cut into segments, encoded and committed."""

    min_silence_ms: MinSilenceMs = 800
    speech_threshold: SpeechThreshold = 0.5
    max_seconds: MaxSeconds = 20.0
    policy: Policy = "ctc"
    margin_ms: MarginMs = 400
    show_margin_ms: ShowMarginMs = 400
    chunk_ms: ChunkMs = None
    lookahead_ms: LookaheadMs = None
    overlap_ms: OverlapMs = 1200

    def config(self, style: Style) -> StreamConfig:
        """The settings of streams except for the context, which needs the model.

        Raises:
            typer.BadParameter: a setting is out of its bounds.
        """
        from streaming.endpoint import EndpointConfig
        from streaming.engine import StreamConfig
        from streaming.policy import PolicyConfig

        with usage():
            endpoint = EndpointConfig(
                speech_threshold=self.speech_threshold,
                silence_threshold=min(EndpointConfig.silence_threshold, self.speech_threshold),
                min_silence_ms=self.min_silence_ms,
                max_seconds=self.max_seconds,
            )
            policy = PolicyConfig(self.policy, self.margin_ms, show_margin_ms=self.show_margin_ms)
            return StreamConfig(endpoint=endpoint, policy=policy, overlap_ms=self.overlap_ms, style=style)


def make_engine(
    model: ModelOptions,
    lm_weight: float | None,
    streams: StreamOptions,
    config: StreamConfig,
    hotwords: Hotwords | None = None,
    dtype: DtypeName = "float32",
) -> Engine:
    """Load the model and create an engine with it.

    Args:
        model: the model and where it runs.
        lm_weight: weight of the language model; None: the model's own.
        streams: the options whose chunk and lookahead replace the model's own where given.
        config: their `config()`, perhaps with further settings.
        hotwords: of streams; checked against the model.
        dtype: number format to compute in.

    Raises:
        CheckpointError, DeviceError: the model cannot be loaded.
        typer.BadParameter: options that contradict each other or the model.
    """
    from streaming.engine import Engine

    recogniser, search = load(model, SearchOptions(lm_weight=lm_weight), dtype=dtype)
    spell(recogniser, hotwords, search)
    own = recogniser.model.config.streaming
    with usage():
        context = replace(
            own,
            chunk_ms=own.chunk_ms if streams.chunk_ms is None else streams.chunk_ms,
            lookahead_ms=own.lookahead_ms if streams.lookahead_ms is None else streams.lookahead_ms,
        )
        final = None if search == recogniser.model.config.search else search
        return Engine(recogniser, replace(config, context=context, final=final))
