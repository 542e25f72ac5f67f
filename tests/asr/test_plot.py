"""The plot shows the model's attention and CTC output at the right times, and its file is complete or absent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asr import checkpoint, plot
from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, FeatureConfig, ModelConfig, SearchConfig
from asr.errors import AudioError, DataError, DependencyError
from asr.model.las import Model
from asr.plot import Examined, Peak, Stretch
from asr.recogniser import Recogniser
from asr.text.tokenizer import Tokenizer
from asr.transcript import Segment, Transcript, Word

TEXT = "the old man stood at the window"
PANELS = ["spectrogram", "attention", "ctc"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """A small untrained model."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([TEXT], 40, "char")
    config = ModelConfig(
        vocab_size=len(tokenizer),
        encoder=EncoderConfig(joins=(2, 2), hidden_size=16),
        attention=AttentionConfig(scorer="multi_head", heads=2, size=16),
        decoder=DecoderConfig(hidden_size=16, embedding_size=8),
    )
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(folder, Model(config), tokenizer)
    return Recogniser.load(folder, device="cpu")


@pytest.fixture
def said(recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> Recogniser:
    """The same recogniser, with `TEXT` as the transcript of any audio, from 0.25 s to the end."""

    def transcribe(waveform: torch.Tensor, **_: Any) -> Transcript:
        seconds = len(waveform) / 16_000
        words = (Word("the", 0.3, 0.5, 0.9), Word("old", 0.5, 0.9, 0.8))
        return Transcript("tensor", seconds, (Segment(TEXT, 0.25, seconds, -1.0, words),))

    monkeypatch.setattr(recogniser, "transcribe", transcribe)
    return recogniser


def tone(seconds: float, hz: float = 1000.0) -> NDArray[np.float32]:
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def panels(figure: Figure) -> dict[str, Any]:
    figure.canvas.draw()
    found: dict[str, Any] = {str(axes.get_label()): axes for axes in figure.axes}
    return {name: found[name] for name in PANELS}


def examined(stretches: tuple[Stretch, ...], words: tuple[Word, ...] = (), seconds: float = 4.0) -> Examined:
    return Examined(
        transcript=Transcript("talk_$1.wav", seconds, (Segment("a b", 0.0, seconds, 0.0, words),)),
        stretches=stretches,
        frame_seconds=0.04,
        pieces=("<pad>", "<unk>", "<s>", "</s>", "_a", "b"),
        decibels=np.zeros((300, 80), dtype=np.float32),
        features=FeatureConfig(),
    )


def heard(frames: int, *spikes: tuple[int, int, float]) -> NDArray[np.float32]:
    """Posteriors of six tokens: blank except for the given (token, frame, probability)."""
    posteriors = np.zeros((frames, 6), dtype=np.float32)
    for token, frame, probability in spikes:
        posteriors[frame, token] = probability
    posteriors[:, 0] = 1 - posteriors.sum(axis=1)
    return posteriors


def test_a_real_file_becomes_a_png(recogniser: Recogniser, repository_root: Path, tmp_path: Path) -> None:
    source, output = repository_root / "recipes" / "sample.flac", tmp_path / "sample.png"
    transcript = plot.plot(recogniser, source, output, SearchConfig(beam_size=1))
    assert output.read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["sample.png"]
    assert transcript.source == str(source)
    assert 4 < transcript.duration_seconds < 6


def test_the_three_panels_share_their_time(said: Recogniser) -> None:
    found = plot.examine(said, tone(2.0))
    axes = panels(plot.figure(found))
    assert {axis.get_xlim() for axis in axes.values()} == {(0.0, 2.0)}
    assert axes["ctc"].get_xlabel() == "time (s)"
    assert [t.get_text() for t in axes["spectrogram"].get_yticklabels()] == ["250", "500", "1k", "2k", "4k", "8k"]
    assert axes["ctc"].figure.get_suptitle() == TEXT


def test_attention_has_a_row_for_each_token(said: Recogniser) -> None:
    (stretch,) = plot.examine(said, tone(2.0)).stretches
    tokens = said.tokenizer.encode(TEXT)
    assert stretch.start_seconds == 0.25
    assert list(stretch.tokens) == [said.tokenizer.label(t) for t in tokens]
    assert stretch.alignment.shape == (len(tokens), len(stretch.posteriors))
    np.testing.assert_allclose(stretch.alignment.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(stretch.posteriors.sum(axis=1), 1, atol=1e-5)


def test_a_tone_stands_at_its_frequency(said: Recogniser) -> None:
    found = plot.examine(said, tone(1.0, hz=2000))
    axes = panels(plot.figure(found))["spectrogram"]
    bin_of = dict(zip((t.get_text() for t in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert abs(found.decibels.mean(axis=0).argmax() - bin_of["2k"]) < 1
    assert found.decibels.max() == 0


def test_segments_are_drawn_where_they_begin() -> None:
    first = Stretch(0.5, ("_a",), np.eye(1, 25, 10, dtype=np.float32), heard(25, (4, 10, 0.9)))
    second = Stretch(2.0, ("b", "b"), np.eye(2, 25, 5, dtype=np.float32), heard(25, (5, 5, 0.8), (5, 15, 0.7)))
    axes = panels(plot.figure(examined((first, second))))
    extents = [image.get_extent() for image in axes["attention"].images]
    np.testing.assert_allclose(extents, [(0.5, 1.5, 0.5, -0.5), (2.0, 3.0, 2.5, 0.5)])
    assert [label.get_text() for label in axes["attention"].get_yticklabels()] == ["_a", "b", "b"]
    labels = [(label.get_text(), *label.xy) for label in axes["ctc"].texts]
    assert [name for name, _, _ in labels] == ["_a", "b", "b"]
    # The middle of a frame: 0.5 + 10.5 * 0.04 and so on.
    np.testing.assert_allclose([xy for _, *xy in labels], [(0.92, 0.9), (2.22, 0.8), (2.62, 0.7)], rtol=1e-5)


def test_words_are_marked_with_their_times() -> None:
    words = (Word("a", 0.5, 1.0, 0.9), Word("b", 1.0, 2.5, 0.9))
    axes = panels(plot.figure(examined((), words)))["ctc"]
    boxes = [box.get_paths()[0].get_extents() for box in axes.collections]
    assert [(box.x0, box.x1) for box in boxes] == [(0.5, 1.0), (1.0, 2.5)]
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [("a", 0.75), ("b", 1.75)]


def test_peaks_of_synthetic_posteriors() -> None:
    posteriors = heard(30, (4, 3, 0.5), (4, 4, 0.9), (5, 5, 0.6), (4, 12, 0.3), (5, 20, 0.1), (4, 29, 0.8))
    found = [Peak(p.token, p.frame, round(p.probability, 3)) for p in plot.peaks(posteriors)]
    assert found == [Peak(4, 4, 0.9), Peak(5, 5, 0.6), Peak(4, 12, 0.3), Peak(4, 29, 0.8)]
    assert [p.frame for p in plot.peaks(posteriors, threshold=0.7)] == [4, 29]


@pytest.mark.parametrize("posteriors", [heard(10), heard(0), np.full((10, 6), 1 / 6, dtype=np.float32)])
def test_no_peaks(posteriors: NDArray[np.float32]) -> None:
    assert plot.peaks(posteriors) == []


def test_of_a_long_source_the_first_part_is_drawn(said: Recogniser) -> None:
    found = plot.examine(said, tone(21.0))
    assert found.cut
    assert found.transcript.duration_seconds == plot.MAX_SECONDS
    axes = panels(plot.figure(found))
    assert "the first 20 s" in axes["spectrogram"].get_title(loc="left")
    assert not plot.examine(said, tone(20.0)).cut


def test_silence_makes_a_picture_too(recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "transcribe", lambda waveform, **_: Transcript("tensor", len(waveform) / 16_000))
    assert plot.plot(recogniser, 0 * tone(1.0), tmp_path / "silence.png").text == ""
    assert (tmp_path / "silence.png").read_bytes().startswith(PNG)


def test_too_short_for_a_picture(recogniser: Recogniser, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"lasts 0\.010 s: too short"):
        plot.plot(recogniser, tone(0.01), tmp_path / "short.png")


def test_an_output_that_cannot_be_written(said: Recogniser, tmp_path: Path) -> None:
    for output in (tmp_path / "none" / "x.png", tmp_path):
        with pytest.raises(DataError, match="cannot be written") as caught:
            plot.plot(said, tone(1.0), output)
        assert str(output) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_it_says_what_to_install(
    said: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"pip install 'spellstream\[plot\]'"):
        plot.plot(said, tone(1.0), tmp_path / "x.png")


def test_an_alignment_alone() -> None:
    made = plot.attention_figure(np.eye(3, 50, dtype=np.float32), ["_a", "_b", "c"], 0.04)
    made.canvas.draw()
    axes = made.axes[0]
    assert axes.get_xlim() == (0.0, 2.0)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["_a", "_b", "c"]
    np.testing.assert_array_equal(axes.images[0].get_array(), np.eye(3, 50))
