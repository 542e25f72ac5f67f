"""Plot of a transcription: spectrogram, attention of the decoder, CTC probabilities and words on one time axis.

`examine` runs the model and collects the data as plain arrays, `figure` draws them, and `plot` does both and writes a
PNG. `attention_figure` draws a single alignment, for the logs of training. Only drawing imports matplotlib.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asr import audio
from asr.config import FeatureConfig, SearchConfig
from asr.errors import AudioError, DependencyError
from asr.files import write_atomically
from asr.model.mel import hz_to_mel
from asr.recogniser import Recogniser
from asr.text.tokenizer import BLANK
from asr.transcript import Segment, Transcript, Word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "MAX_SECONDS",
    "Examined",
    "Peak",
    "Stretch",
    "attention_figure",
    "examine",
    "figure",
    "peaks",
    "plot",
    "require_matplotlib",
]

MAX_SECONDS = 20.0  # longer sources are truncated: more would be illegible

_DPI = 120
_DYNAMIC_RANGE_DB = 70.0
_QUIETEST_PEAK_DB = 60.0  # above the floor: quieter audio is not brightened
_FREQUENCIES = (250, 500, 1000, 2000, 4000, 8000)  # Hz, labelled on the spectrogram
_MIN_PROBABILITY = 0.05  # lower ones are not drawn
_SPECTROGRAM_INCHES, _CTC_INCHES = 2.3, 3.0
_ROW_INCHES = 0.17  # preferred height of a token's row
_LABEL_INCHES = 0.1  # height of its label
_BAR_INCHES = 0.1  # width of a colour bar
_LANES = (-0.24, -0.42)  # two alternating rows of words below the probabilities, so that labels do not overlap
_LANE_HEIGHT = 0.17
_GREY, _INK, _WORD_COLOUR = "0.55", "0.2", "#d7e6f5"


class Peak(NamedTuple):
    """Peak of a token's CTC probability."""

    token: int
    frame: int
    probability: float


@dataclass(frozen=True)
class Stretch:
    """Model outputs for one segment; frames are encoder frames."""

    start_seconds: float
    tokens: tuple[str, ...]
    alignment: NDArray[np.float32]  # (tokens, frames): attention weights, mean over the heads
    posteriors: NDArray[np.float32]  # (frames, vocab_size): CTC probabilities, with the blank


@dataclass(frozen=True)
class Examined:
    """The data of a plot."""

    transcript: Transcript
    stretches: tuple[Stretch, ...]
    frame_seconds: float  # of the encoder's output
    pieces: tuple[str, ...]  # the vocabulary
    decibels: NDArray[np.float32]  # (feature frames, n_mels): the log-mel spectrogram, about 0 at its loudest
    features: FeatureConfig
    cut: bool = False  # whether the source was truncated


def plot(recogniser: Recogniser, source: audio.Source, output: Path, search: SearchConfig | None = None) -> Transcript:
    """Transcribe a source, or the first 20 s of a longer one, and write a PNG of spectrogram, attention and CTC.

    Args:
        recogniser: made by `asr.load`.
        source: as for `Recogniser.transcribe`; an array is assumed to be 16 kHz.
        output: path of the PNG, written atomically.
        search: the model's own settings if None.

    Returns:
        The transcript of the plotted audio, with word times.

    Raises:
        DependencyError: matplotlib is not installed.
        AudioError: the source cannot be read, or is shorter than one frame.
        DataError: the PNG cannot be written.
    """
    require_matplotlib()
    examined = examine(recogniser, source, search)
    image = io.BytesIO()
    figure(examined).savefig(image, format="png", dpi=_DPI)
    write_atomically(output, image.getvalue())
    return examined.transcript


@torch.inference_mode()
def examine(recogniser: Recogniser, source: audio.Source, search: SearchConfig | None = None) -> Examined:
    """Transcribe a source, or its first 20 s, and collect spectrogram, attention and CTC probabilities."""
    model, rate = recogniser.model, audio.SAMPLE_RATE
    waveform, cut = _excerpt(source)
    config = model.config.features
    if len(waveform) < config.n_fft:
        raise AudioError(
            audio.source_name(source), f"lasts {len(waveform) / rate:.3f} s: too short for one frame of a plot"
        )

    transcript = recogniser.transcribe(waveform, sample_rate=rate, search=search, word_timestamps=True, style="spoken")
    log_mel = model.features.unnormalised(waveform[None].to(recogniser.device))[0].cpu().numpy()
    decibels = (log_mel - model.features.floor) * model.features.to_decibels

    return Examined(
        transcript=replace(transcript, source=audio.source_name(source)),
        stretches=tuple(_stretch(recogniser, waveform, segment) for segment in transcript.segments),
        frame_seconds=model.config.frame_seconds,
        pieces=tuple(recogniser.tokenizer.label(token) for token in range(len(recogniser.tokenizer))),
        decibels=decibels - max(decibels.max(), _QUIETEST_PEAK_DB),
        features=config,
        cut=cut,
    )


def peaks(posteriors: NDArray[np.float32], threshold: float = 0.2) -> list[Peak]:
    """Peaks of CTC posteriors `(frames, vocab_size)`, in order of time.

    Neighbouring frames with the same most likely token other than the blank, at or above the threshold, form one peak.
    """
    if posteriors.size == 0:
        return []

    tokens = posteriors[:, BLANK + 1 :].argmax(axis=1) + BLANK + 1
    best = np.take_along_axis(posteriors, tokens[:, None], axis=1)[:, 0]
    tokens = np.where(best >= threshold, tokens, BLANK)

    bounds = [*np.flatnonzero(np.diff(tokens, prepend=BLANK)), len(tokens)]
    runs = [(start, end) for start, end in pairwise(bounds) if tokens[start] != BLANK]
    frames = [int(start + best[start:end].argmax()) for start, end in runs]
    return [Peak(int(tokens[frame]), frame, float(best[frame])) for frame in frames]


def figure(examined: Examined) -> Figure:
    """Draw three panels with a common time axis: `axes` labelled "spectrogram", "attention" and "ctc"."""
    seconds = examined.transcript.duration_seconds
    width = min(max(9.0, 4.5 + 0.9 * seconds), 22.0)
    rows = sum(len(stretch.tokens) for stretch in examined.stretches)
    heights = [_SPECTROGRAM_INCHES, _attention_height(rows), _CTC_INCHES]

    made = _new_figure(width, sum(heights) + 1.3)
    panels = made.subplot_mosaic(
        [["spectrogram"], ["attention"], ["ctc"]], sharex=True, gridspec_kw={"height_ratios": heights}
    )

    _draw_spectrogram(panels["spectrogram"], examined)
    _draw_attention(panels["attention"], examined.stretches, examined.frame_seconds, heights[1])
    _draw_ctc(panels["ctc"], examined)
    _draw_words(panels["ctc"], examined.transcript.words)

    # The common time axis, with a line at each word's start.
    for panel in panels.values():
        panel.set_xlim(0, seconds)
        for word in examined.transcript.words:
            panel.axvline(word.start_seconds, color=_GREY, linewidth=0.5, alpha=0.5, zorder=0.5)
    for panel in (panels["spectrogram"], panels["attention"]):
        panel.tick_params(labelbottom=False)
    panels["ctc"].set_xlabel("time (s)")
    _draw_title(made, panels["spectrogram"], examined, characters=int(width * 10))
    return made


def attention_figure(alignment: NDArray[np.float32], tokens: Sequence[str], frame_seconds: float) -> Figure:
    """Draw one alignment `(tokens, frames)`, for example for TensorBoard's `add_figure`."""
    height = _attention_height(len(tokens))
    made = _new_figure(9.0, height + 0.8)
    panel = made.add_subplot(label="attention")
    stretch = Stretch(0.0, tuple(tokens), alignment, np.zeros((0, 1), dtype=np.float32))
    _draw_attention(panel, [stretch], frame_seconds, height)
    panel.set_xlim(0, max(alignment.shape[1], 1) * frame_seconds)
    panel.set_xlabel("time (s)")
    return made


def _excerpt(source: audio.Source) -> tuple[torch.Tensor, bool]:
    """The first `MAX_SECONDS` of a source, and whether the source is longer."""
    rate = audio.SAMPLE_RATE if isinstance(source, (np.ndarray, torch.Tensor)) else None
    limit, read, parts = round(MAX_SECONDS * audio.SAMPLE_RATE), 0, []
    for block in audio.blocks(source, sample_rate=rate):
        parts.append(block)
        read += len(block)
        if read > limit:
            break
    return torch.cat(parts)[:limit], read > limit


def _stretch(recogniser: Recogniser, waveform: torch.Tensor, segment: Segment) -> Stretch:
    """Run the model on a segment again, feeding the decoder the recognised tokens (teacher forcing)."""
    model, tokenizer = recogniser.model, recogniser.tokenizer
    start, end = (round(t * audio.SAMPLE_RATE) for t in (segment.start_seconds, segment.end_seconds))
    part = waveform[None, start:end].to(recogniser.device)
    encoder_out, lengths = model.encode(part, torch.tensor([part.shape[1]], device=recogniser.device))
    tokens = tokenizer.encode(segment.text)
    return Stretch(
        start_seconds=segment.start_seconds,
        tokens=tuple(tokenizer.label(token) for token in tokens),
        alignment=model.decoder.alignment(tokens, encoder_out, lengths).numpy(),
        posteriors=model.ctc_log_probs(encoder_out)[0].exp().cpu().numpy(),
    )


def require_matplotlib() -> None:
    """Raise DependencyError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise DependencyError("plots need matplotlib: pip install 'spellstream[plot]'") from None


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, on the Agg canvas, which needs no display and no global state."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def _attention_height(rows: int) -> float:
    return min(max(1.8, _ROW_INCHES * rows), 10.0)


def _draw_spectrogram(panel: Axes, examined: Examined) -> None:
    decibels, config = examined.decibels, examined.features
    image = panel.imshow(
        decibels.T,
        origin="lower",
        aspect="auto",
        extent=(0, len(decibels) * config.hop_ms / 1000, -0.5, config.n_mels - 0.5),
        cmap="magma",
        vmin=-_DYNAMIC_RANGE_DB,
        vmax=0,
    )

    ticks = [hz for hz in _FREQUENCIES if config.f_min <= hz <= config.f_max]
    panel.set_yticks(_mel_bins(ticks, config), [f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in ticks])
    panel.set_ylabel("frequency (Hz)")
    panel.set_facecolor("black")
    _colour_bar(panel, image, "dB", _SPECTROGRAM_INCHES)


def _mel_bins(frequencies: Sequence[float], config: FeatureConfig) -> list[float]:
    """Positions of frequencies in Hz on an axis of mel bins, bin 0 at 0, interpolated on the mel scale."""
    lowest, highest = hz_to_mel(config.f_min), hz_to_mel(config.f_max)
    width = (highest - lowest) / (config.n_mels + 1)
    return [(hz_to_mel(hz) - lowest) / width - 1 for hz in frequencies]


def _draw_attention(panel: Axes, stretches: Sequence[Stretch], frame_seconds: float, height: float) -> None:
    """Draw tokens from top to bottom; colours follow the square root of the weights, so that small ones are visible."""
    from matplotlib.colors import PowerNorm

    tokens = [token for stretch in stretches for token in stretch.tokens]
    highest = max((float(stretch.alignment.max(initial=0)) for stretch in stretches), default=0.0)
    norm, image, row = PowerNorm(0.5, vmin=0, vmax=max(highest, 0.1)), None, 0

    for stretch in stretches:
        rows, frames = stretch.alignment.shape
        if rows == 0 or frames == 0:
            continue
        start = stretch.start_seconds
        extent = (start, start + frames * frame_seconds, row + rows - 0.5, row - 0.5)
        image = panel.imshow(
            stretch.alignment, aspect="auto", extent=extent, cmap="Blues", norm=norm, interpolation="nearest"
        )
        row += rows

    panel.set_ylim(max(row, 1) - 0.5, -0.5)
    panel.set_ylabel("token")
    every = max(1, math.ceil(_LABEL_INCHES * len(tokens) / height))
    labelled = range(0, len(tokens), every)
    panel.set_yticks(labelled, [tokens[i] for i in labelled], fontsize=6.5, parse_math=False)

    if image is not None:
        _colour_bar(panel, image, "attention", height)
    else:
        panel.text(0.5, 0.5, "no tokens", transform=panel.transAxes, ha="center", va="center", color=_GREY)


def _draw_ctc(panel: Axes, examined: Examined) -> None:
    """Draw a line for each token that becomes likely, with labelled peaks, and a grey line for the blank."""
    from matplotlib import colormaps

    colours = [colormaps["tab10"](i) for i in range(10) if i != 7]  # without grey, used for the blank
    for stretch in examined.stretches:
        posteriors = stretch.posteriors
        seconds = stretch.start_seconds + (np.arange(len(posteriors)) + 0.5) * examined.frame_seconds
        (blank,) = panel.plot(seconds, posteriors[:, BLANK], color=_GREY, linewidth=0.8, label="blank", zorder=1)
        panel.legend(handles=[blank], loc="upper right", fontsize=7, frameon=False)

        # Each peak is drawn with one frame on either side.
        heard = np.pad(posteriors >= _MIN_PROBABILITY, ((1, 1), (0, 0)))
        visible = np.where(heard[:-2] | heard[1:-1] | heard[2:], posteriors, np.nan)
        for token in np.flatnonzero(heard.any(axis=0)):
            if token != BLANK:
                panel.plot(seconds, visible[:, token], color=colours[token % len(colours)], linewidth=1.2)

        for peak in peaks(posteriors):
            panel.annotate(
                examined.pieces[peak.token],
                (float(seconds[peak.frame]), peak.probability),
                xytext=(0, 2),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=7,
                color=colours[peak.token % len(colours)],
                parse_math=False,
            )

    panel.set_ylim(min(_LANES) - 0.05, 1.4)
    panel.set_yticks([0, 0.5, 1])
    panel.set_ylabel("CTC probability")


def _draw_words(panel: Axes, words: Sequence[Word]) -> None:
    """Draw each word as a box from its start to its end, in alternating lanes."""
    for i, word in enumerate(words):
        seconds, bottom = word.end_seconds - word.start_seconds, _LANES[i % len(_LANES)]
        panel.broken_barh([(word.start_seconds, seconds)], (bottom, _LANE_HEIGHT), facecolor=_WORD_COLOUR)
        middle = (word.start_seconds + seconds / 2, bottom + _LANE_HEIGHT / 2)
        panel.text(*middle, word.text, ha="center", va="center", fontsize=8, color=_INK, parse_math=False)


def _draw_title(made: Figure, first: Axes, examined: Examined, characters: int) -> None:
    """Draw the text as the title, and the source below it in small print."""
    transcript = examined.transcript
    text = textwrap.fill(transcript.text or "(no words)", characters, max_lines=3, placeholder=" …")
    made.suptitle(text, fontsize=12, parse_math=False)
    length = f"the first {MAX_SECONDS:g} s" if examined.cut else f"{transcript.duration_seconds:.2f} s"
    first.set_title(f"{Path(transcript.source).name}, {length}", fontsize=8, loc="left", color=_GREY, parse_math=False)


def _colour_bar(panel: Axes, image: AxesImage, label: str, height: float) -> None:
    bar = panel.figure.colorbar(image, ax=panel, pad=0.01, aspect=height / _BAR_INCHES)
    bar.outline.set_visible(False)
    bar.set_label(label)
