"""Helpers of the training tests: a tiny corpus, a tiny run, and a record of its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from asr.archive.manifest import Utterance, write
from asr.config import AttentionConfig, Context, DecoderConfig, EncoderConfig, FeatureConfig, SearchConfig
from asr.training.callbacks import Samples
from asr.training.config import (
    AugmentConfig,
    DataConfig,
    OptimiserConfig,
    TokenizerConfig,
    TrainConfig,
)
from asr.training.corpus.prepare import Settings, prepare
from asr.training.data import Batch
from asr.training.module import LasModule

TEXTS = ("on", "no", "go on", "gong", "oh no", "hog", "nog", "ohon")

RUN = TrainConfig(
    features=FeatureConfig(n_mels=12),
    encoder=EncoderConfig(joins=(2, 2), hidden_size=6, dropout=0.1, normalisation="batch"),
    attention=AttentionConfig(size=6, location_channels=2, location_width=5),
    decoder=DecoderConfig(hidden_size=8, embedding_size=4, dropout=0.1),
    search=SearchConfig(beam_size=3, ctc_weight=0.45),
    streaming=Context(chunk_ms=320, lookahead_ms=40),
    tokenizer=TokenizerConfig("char", 20),
    data=DataConfig(batch_seconds=2, max_seconds=2, workers=0),
    augment=AugmentConfig(time_mask_frames=5, mel_mask_bins=3),
    optimiser=OptimiserConfig(
        learning_rate=5e-3, warmup_steps=3, decay_steps=4, max_steps=10, ema_decay=0.9, weight_decay=0.1
    ),
    sampling_rate=0.2,
    sampling_start_step=4,
    chunk_ms=(0, 320),
    lookahead_ms=(40,),
    validate_every=4,
    save_every=2,
)


def recordings(folder: Path) -> Path:
    """Eight recordings of half a second to a second, and a manifest of them."""
    generator = torch.Generator().manual_seed(1)
    utterances = []
    for i, text in enumerate(TEXTS):
        samples = 8_000 + 1_000 * i
        waveform = 0.3 * torch.sin(torch.arange(samples) * 0.02 * (i + 2))
        waveform += 0.01 * torch.randn(samples, generator=generator)
        soundfile.write(folder / f"{i}.wav", waveform.numpy(), 16_000)
        utterances.append(Utterance(str(i), folder / f"{i}.wav", samples / 16_000, text, "test", None))
    write(folder / "all.jsonl", utterances)
    return folder / "all.jsonl"


def prepared(folder: Path) -> Path:
    """The prepared corpus of the eight recordings."""
    report = prepare([recordings(folder)], folder / "prepared", Settings())
    assert (report.utterances, report.problems) == (8, [])
    return folder / "prepared"


class KilledError(Exception):
    """Simulates a kill -9: our code does not catch it."""


class Witness:
    """Records the weights before each step of a run and at its end, and can kill the run at a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entering: dict[int, list[Tensor]] = {}
        self.final: list[Tensor] = []
        self.before_step: Callable[[int], None] = lambda step: None
        self.loss: Callable[[int, Tensor], Tensor] = lambda step, loss: loss
        self.dev_wer: Callable[[int], float] | None = None
        step_of, wer_of = LasModule.training_step, LasModule.dev_wer

        def training_step(module: LasModule, batch: Batch, index: int) -> Tensor:
            step = module.global_step
            self.before_step(step)
            self.entering[step] = [w.clone() for w in module.state_dict().values()]
            return self.loss(step, step_of(module, batch, index))

        def dev_wer(module: LasModule) -> float:
            return self.dev_wer(module.global_step) if self.dev_wer else wer_of(module)

        monkeypatch.setattr(LasModule, "training_step", training_step)
        monkeypatch.setattr(LasModule, "dev_wer", dev_wer)
        monkeypatch.setattr(LasModule, "on_train_end", self._on_train_end, raising=False)
        # Plots take longer than everything else.
        monkeypatch.setattr(Samples, "on_validation_batch_end", lambda *arguments, **options: None)

    @property
    def _on_train_end(self) -> Callable[[LasModule], None]:
        def on_train_end(module: LasModule) -> None:
            self.final = [w.clone() for w in module.state_dict().values()]

        return on_train_end

    def kill_at(self, doomed: int | None) -> None:
        def before_step(step: int) -> None:
            if step == doomed:
                raise KilledError

        self.before_step = before_step


class Unbroken:
    """The record of an uninterrupted run, for comparison."""

    def __init__(self, entering: dict[int, list[Tensor]], final: list[Tensor]) -> None:
        self.entering, self.final = entering, final

    def equals(self, witness: Witness) -> None:
        assert sorted(witness.entering) == sorted(self.entering) == list(range(10))
        for step, weights in self.entering.items():
            assert_same(weights, witness.entering[step])
        assert_same(self.final, witness.final)


def steps(printed: str) -> list[int]:
    """The steps at which dev was measured."""
    return [int(line.split()[1]) for line in printed.splitlines()]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert a
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
