"""Training: what is done to the audio, in which order it comes, what is learned, and that a kill costs nothing."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr import checkpoint
from asr.config import AttentionConfig, Context, DecoderConfig, EncoderConfig, FeatureConfig, ModelConfig, SearchConfig
from asr.errors import CheckpointError, ConfigError, DataError, DeviceError, SpellstreamError
from asr.manifest import Utterance, write
from asr.model import Model
from asr.tokenizer import EOS, SOS, Tokenizer
from asr.training.augment import limit_bandwidth, mask_spectrum, perturb_waveform
from asr.training.config import (
    AugmentConfig,
    DataConfig,
    OptimiserConfig,
    TokenizerConfig,
    TrainConfig,
    read_config,
)
from asr.training.data import Batch, BucketSampler, Corpus, Item, collate, pack
from asr.training.module import LasModule, joint_loss, word_errors
from asr.training.run import train

OFF = AugmentConfig(speeds=(), gain_db=0.0, noise_probability=0.0, bandwidth_probability=0.0, time_masks=0, mel_masks=0)
TEXTS = ("on", "no", "go on", "gong", "oh no", "hog", "nog", "ohon")


# Augmentation


def test_speed_changes_length_and_pitch() -> None:
    """A tone played 10 % faster is 10 % shorter and 10 % higher; shorter rows shrink by the same share."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    waveform = torch.stack([tone, tone * (torch.arange(16_000) < 8_000)])
    fast, samples = perturb_waveform(
        waveform, torch.tensor([16_000, 8_000]), None, dataclasses.replace(OFF, speeds=(1.1,))
    )
    assert samples.tolist() == pytest.approx([16_000 / 1.1, 8_000 / 1.1], abs=1)
    assert fast.shape[1] == samples[0]
    spectrum = torch.fft.rfft(fast[0]).abs()
    assert float(spectrum.argmax()) * 16_000 / fast.shape[1] == pytest.approx(1_100, abs=3)
    assert fast[1, samples[1] + 1 :].abs().max() == 0


def test_without_settings_nothing_is_changed() -> None:
    waveform, samples = torch.randn(3, 900), torch.tensor([900, 800, 100])
    same, kept = perturb_waveform(waveform, samples, torch.randn(5_000), OFF)
    assert torch.equal(same, waveform)
    assert torch.equal(kept, samples)
    features = torch.randn(3, 20, 8)
    assert torch.equal(limit_bandwidth(features, torch.arange(8) * 900.0, torch.full((8,), -3.0), OFF), features)
    assert torch.equal(mask_spectrum(features, torch.tensor([20, 10, 5]), OFF), features)


def test_gain_stays_within_its_bounds_and_differs_from_row_to_row() -> None:
    waveform = torch.randn(200, 100)
    louder, _ = perturb_waveform(waveform, torch.full((200,), 100), None, dataclasses.replace(OFF, gain_db=6.0))
    gain_db = 20 * (louder / waveform).log10()
    assert gain_db.abs().max() <= 6.001
    assert gain_db.min() < -4
    assert gain_db.max() > 4
    torch.testing.assert_close(gain_db.std(1), torch.zeros(200), atol=1e-3, rtol=0)


def test_noise_comes_at_the_level_that_was_asked_for() -> None:
    """Signal to noise, measured over each row's own samples, is what the config says, even of uneven noise."""
    samples = torch.tensor([16_000, 4_000, 8_000])
    waveform = 0.1 * torch.randn(3, 16_000) * (torch.arange(16_000) < samples[:, None])
    noise = torch.randn(50_000) * torch.linspace(0.01, 3, 50_000)
    config = dataclasses.replace(OFF, noise_probability=1.0, noise_snr_db=(10.0, 10.0))
    noisy, _ = perturb_waveform(waveform, samples, noise, config)
    added = noisy - waveform
    snr_db = 10 * (waveform.square().sum(1) / added.square().sum(1)).log10()
    assert snr_db.tolist() == pytest.approx([10, 10, 10], abs=0.05)
    assert all(added[i, n:].abs().sum() == 0 for i, n in enumerate(samples))


def test_noise_comes_as_often_as_was_asked_for() -> None:
    waveform, samples = torch.randn(400, 50), torch.full((400,), 50)
    config = dataclasses.replace(OFF, noise_probability=0.3)
    noisy, _ = perturb_waveform(waveform, samples, torch.randn(1_000), config)
    assert float((noisy != waveform).any(1).float().mean()) == pytest.approx(0.3, abs=0.1)


def test_narrow_bands_lose_what_lies_above_and_nothing_else() -> None:
    """Each row keeps its low bins as they were; from some bin above the lowest cut on there is only the floor."""
    centres, floor = torch.linspace(100, 8_000, 40), torch.linspace(-3, -2, 40)
    features = torch.randn(300, 5, 40)
    config = dataclasses.replace(OFF, bandwidth_probability=0.5, bandwidth_min_hz=3_000.0)
    narrow = limit_bandwidth(features, centres, floor, config)
    gone = (narrow == floor).all(1)  # (rows, bins)
    assert torch.equal(narrow[~gone[:, None].expand_as(narrow)], features[~gone[:, None].expand_as(narrow)])
    assert not gone[:, centres <= 3_000].any()
    assert (gone.int().diff(dim=1) >= 0).all()  # once gone, gone up to the top
    assert float(gone.any(1).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert len(gone.sum(1).unique()) > 10


def test_masks_stay_inside_utterances_and_their_shares() -> None:
    """SpecAugment hides at most the asked number of frames and bins, and never takes a whole short utterance."""
    lengths = torch.tensor([100, 40, 10] * 50)
    config = dataclasses.replace(OFF, time_masks=1, time_mask_frames=20, time_mask_share=0.3)
    hidden = mask_spectrum(torch.ones(150, 100, 8), lengths, config)[..., 0] == 0
    widths = hidden.sum(1)
    assert (widths <= (lengths * 0.3).ceil().clamp(max=20)).all()
    assert widths[0::3].max() > 15
    assert widths[2::3].max() >= 2
    assert not (hidden & (torch.arange(100) >= lengths[:, None])).any()
    assert (hidden.int().diff(dim=1).abs().sum(1) <= 2).all()  # in one piece
    config = dataclasses.replace(OFF, mel_masks=2, mel_mask_bins=5)
    hidden = mask_spectrum(torch.ones(150, 6, 40), torch.full((150,), 6), config) == 0
    assert (hidden == hidden[:, :1]).all()
    assert 5 < hidden[:, 0].sum(1).max() <= 10


# Batches


SECONDS = np.random.default_rng(1).uniform(0.5, 9, 60).tolist()
DATA = DataConfig(batch_seconds=20, max_seconds=10)


def take(sampler: BucketSampler, count: int) -> list[list[int]]:
    batches = iter(sampler)
    return [next(batches) for _ in range(count)]


def test_batches_are_bounded_and_every_utterance_comes_once_a_pass() -> None:
    sampler = BucketSampler(SECONDS, DATA, seed=3)
    for number in range(3):
        batches = sampler.one_pass(number)
        assert sorted(i for batch in batches for i in batch) == list(range(60))
        assert all(len(batch) * max(SECONDS[i] for i in batch) <= 20 for batch in batches)
        assert len(batches) <= 2 * sum(SECONDS) / 20  # little of it is padding


def test_the_first_pass_goes_from_short_to_long_and_later_ones_do_not() -> None:
    sampler = BucketSampler(SECONDS, DATA, seed=3)
    first, second = ([max(SECONDS[i] for i in batch) for batch in sampler.one_pass(number)] for number in (0, 1))
    assert all(b > a * 0.9 for a, b in itertools.pairwise(first))
    assert any(b < a * 0.9 for a, b in itertools.pairwise(second))


def test_the_order_depends_on_the_seed_alone_and_can_be_entered_anywhere() -> None:
    """A run that goes on at step 30, in the middle of a later pass, gets the batches it would have got."""
    whole = take(BucketSampler(SECONDS, DATA, seed=3), 80)
    assert take(BucketSampler(SECONDS, DATA, seed=3), 80) == whole
    assert take(BucketSampler(SECONDS, DATA, seed=4), 80) != whole
    for first in (1, 30, 79):
        sampler = BucketSampler(SECONDS, DATA, seed=3)
        sampler.start_at(first)
        assert take(sampler, 80 - first) == whole[first:]


def test_nothing_to_train_on_is_said_so() -> None:
    with pytest.raises(DataError, match=r"no utterance is left.*data\.min_seconds"):
        BucketSampler([], DATA, seed=1)


# Packed corpora


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight recordings of half a second to a second."""
    folder = tmp_path_factory.mktemp("recordings")
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


@pytest.fixture(scope="module")
def packed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    assert pack([manifest], folder, workers=1) == []
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 20, "char")


def test_a_packed_corpus_holds_the_samples_and_texts(packed: Path, manifest: Path, tokenizer: Tokenizer) -> None:
    corpus = Corpus(packed).tokenise(tokenizer, DataConfig())
    assert [entry.text for entry in corpus.entries] == list(TEXTS)
    for i, text in enumerate(TEXTS):
        expected, _ = soundfile.read(manifest.parent / f"{i}.wav", dtype="float32")
        np.testing.assert_allclose(corpus[i].waveform, expected, atol=1e-4)
        assert tokenizer.decode(corpus[i].tokens.tolist()) == text


def test_utterances_outside_the_bounds_are_left_out(packed: Path, tokenizer: Tokenizer) -> None:
    kept = Corpus(packed).tokenise(tokenizer, DataConfig(min_seconds=0.6, max_seconds=0.8)).entries
    assert [e.text for e in kept] == [text for i, text in enumerate(TEXTS) if 9_600 <= 8_000 + 1_000 * i <= 12_800]


def test_a_broken_file_is_reported_and_the_others_are_packed(manifest: Path, tmp_path: Path) -> None:
    """One line names the file and why; an utterance without text is no problem and not there."""
    (tmp_path / "broken.wav").write_text("this is no audio")
    good = manifest.parent / "0.wav"
    write(
        tmp_path / "some.jsonl",
        [
            Utterance("a", good, 0.5, "on", "test", None),
            Utterance("b", tmp_path / "broken.wav", 0.5, "no", "test", None),
            Utterance("c", good, 0.5, None, "test", None),
            Utterance("d", good, 0.5, "go", "test", None),
        ],
    )
    seen: list[tuple[int, int]] = []
    (problem,) = pack([tmp_path / "some.jsonl"], tmp_path / "out", 1, lambda done, of: seen.append((done, of)))
    assert "broken.wav" in problem
    assert "\n" not in problem
    assert seen == [(1, 3), (2, 3), (3, 3)]
    corpus = Corpus(tmp_path / "out")
    assert [(e.id, e.start, e.samples) for e in corpus.entries] == [("a", 0, 8_000), ("d", 8_000, 8_000)]


def test_nothing_readable_is_an_error_and_leaves_what_was_there(manifest: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_text("this is no audio")
    write(tmp_path / "none.jsonl", [Utterance("b", tmp_path / "broken.wav", 0.5, "no", "test", None)])
    pack([manifest], tmp_path / "out", workers=1)
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    with pytest.raises(DataError, match=r"none\.jsonl: no utterance with text and readable audio"):
        pack([tmp_path / "none.jsonl"], tmp_path / "out", workers=1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before
    assert len(Corpus(tmp_path / "out")) == len(TEXTS)


def test_what_is_no_packed_corpus_is_one_line(packed: Path, tmp_path: Path) -> None:
    """Missing, empty, not JSON, of other keys, or an index that does not belong to the audio."""
    with pytest.raises(DataError, match="not a packed corpus"):
        Corpus(tmp_path)
    audio, index = tmp_path / "audio.i16", tmp_path / "utterances.jsonl"
    rows = (packed / "utterances.jsonl").read_text()
    for samples, text in ((b"", rows), (b"1234", "no json"), (b"1234", '{"id": "a"}'), (b"1234", "[1]"), (b"1", rows)):
        audio.write_bytes(samples)
        index.write_text(text)
        with pytest.raises(DataError) as caught:
            Corpus(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    audio.write_bytes((packed / "audio.i16").read_bytes()[:-2])
    index.write_text(rows)
    with pytest.raises(DataError, match="pack it again"):
        Corpus(tmp_path)


# Settings


def test_a_config_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 7\n[encoder]\njoins = [2, 2]\n[tokenizer]\nkind = "char"\n[optimiser]\nlearning_rate = 1\n')
    config = read_config(path)
    assert (config.seed, config.encoder.joins, config.tokenizer.kind) == (7, (2, 2), "char")
    assert config.optimiser.learning_rate == 1.0
    assert config.data == DataConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = ", "Invalid value"),
        ("sede = 1", "sede is no setting"),
        ("[optimiser]\nlearning_rate = -1", "optimiser.learning_rate is -1.0"),
        ("[optimiser]\nclip_norm = 0", "optimiser.clip_norm is 0.0"),
        ("[data]\nbatch_seconds = 1", "data.batch_seconds is 1.0"),
        ("[augment]\nnoise_snr_db = [5]", "augment.noise_snr_db is (5.0,)"),
        ("[augment]\nspeeds = [0]", "augment.speeds is (0.0,)"),
        ("[augment]\ntime_mask_share = 2", "augment.time_mask_share is 2.0"),
        ("chunk_ms = []", "chunk_ms is ()"),
        ("lookahead_ms = [-60]", "lookahead_ms is (-60,)"),
        ("save_every = 0", "save_every is 0"),
        ("[tokenizer]\nvocab_size = 3", "tokenizer.vocab_size is 3"),
        ('ctc_weight = "much"', "ctc_weight is 'much'"),
    ],
)
def test_a_faulty_config_names_the_file_and_the_setting(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        read_config(tmp_path / "binary.toml")


def test_the_learning_rate_rises_holds_and_falls() -> None:
    settings = OptimiserConfig(warmup_steps=10, decay_steps=20, max_steps=100)
    scales = [settings.scale(step) for step in range(101)]
    assert scales[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(scales[10:81]) == {1.0}
    assert scales[90] == pytest.approx(0.5)
    assert 0 < scales[100] < 0.06
    assert OptimiserConfig(warmup_steps=0, decay_steps=0).scale(0) == 1.0


# Loss


TINY = ModelConfig(
    vocab_size=9,
    features=FeatureConfig(n_mels=12),
    encoder=EncoderConfig(joins=(2, 2), hidden_size=8, dropout=0.0),
    attention=AttentionConfig(size=8, location_channels=2, location_width=5),
    decoder=DecoderConfig(hidden_size=12, embedding_size=6, dropout=0.0),
)


def random_batch(samples: list[int], tokens: list[int]) -> Batch:
    return collate(
        [Item(torch.randn(n), torch.randint(EOS + 1, 9, (u,))) for n, u in zip(samples, tokens, strict=True)]
    )


def cut(batch: Batch, row: int) -> Batch:
    """One utterance of a batch, without padding."""
    n, u = int(batch.samples[row]), int(batch.token_lengths[row])
    return Batch(
        batch.waveform[row : row + 1, :n],
        batch.samples[[row]],
        batch.tokens[row : row + 1, :u],
        batch.token_lengths[[row]],
    )


@torch.no_grad()
def test_padding_has_no_part_in_the_loss() -> None:
    """A batch's loss is that of its utterances alone, each weighed by its tokens."""
    model, batch = Model(TINY), random_batch([16_000, 9_000, 5_000], [6, 3, 1])
    for smoothing in (0.0, 0.1):
        together = joint_loss(model, model.encode(batch.waveform, batch.samples), batch, smoothing, 0.0)
        apart = []
        for row in range(3):
            one = cut(batch, row)
            apart.append(joint_loss(model, model.encode(one.waveform, one.samples), one, smoothing, 0.0))
        tokens = batch.token_lengths
        attention = sum(a.attention * (n + 1) for a, n in zip(apart, tokens, strict=True)) / (tokens + 1).sum()
        ctc = sum(a.ctc * n for a, n in zip(apart, tokens, strict=True)) / tokens.sum()
        torch.testing.assert_close(together.attention, attention, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.ctc, ctc, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_losses_are_cross_entropy_and_ctc_by_hand() -> None:
    """One utterance: the mean over tokens and eos of the speller's surprise, with a share spread over all tokens."""
    model, batch = Model(TINY), random_batch([9_000], [3])
    encoded = model.encode(batch.waveform, batch.samples)
    inputs, targets = torch.tensor([[SOS, *batch.tokens[0].tolist()]]), torch.tensor([*batch.tokens[0].tolist(), EOS])
    log_probs = model.decoder(inputs, *encoded)[0][0].log_softmax(-1)
    right = log_probs.gather(1, targets[:, None]).mean()
    losses = joint_loss(model, encoded, batch, 0.0, 0.0)
    torch.testing.assert_close(losses.attention, -right)
    assert losses.accuracy == (log_probs.argmax(-1) == targets).float().mean()
    smooth = joint_loss(model, encoded, batch, 0.2, 0.0).attention
    torch.testing.assert_close(smooth, -(0.8 * right + 0.2 * log_probs.mean()))
    ctc = torch.nn.functional.ctc_loss(
        model.ctc_log_probs(encoded.encoder_out)[0],
        batch.tokens[0],
        encoded.encoder_out_lengths,
        torch.tensor([3]),
        reduction="sum",
    )
    torch.testing.assert_close(losses.ctc, ctc / 3)


def test_too_few_frames_for_the_tokens_cost_nothing_and_spoil_nothing() -> None:
    """CTC cannot spell ten tokens in two frames, nor anything in none: the loss and its gradient stay finite."""
    model, batch = Model(TINY), random_batch([16_000, 1_500, 300], [4, 10, 2])
    encoded = model.encode(batch.waveform, batch.samples)
    assert encoded.encoder_out_lengths.tolist()[1:] == [2, 0]
    losses = joint_loss(model, encoded, batch, 0.1, 0.0)
    (losses.attention + losses.ctc).backward()
    assert torch.isfinite(losses.attention)
    assert 0 < losses.ctc < 1e3
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_scheduled_sampling_shows_the_speller_its_own_words() -> None:
    """With a rate of 0 the true history alone counts; above, what it is shown, and so its loss, is drawn anew."""
    model, batch = Model(TINY), random_batch([16_000] * 4, [8] * 4)
    encoded = model.encode(batch.waveform, batch.samples)
    true = {float(joint_loss(model, encoded, batch, 0.0, 0.0).attention) for _ in range(3)}
    drawn = {float(joint_loss(model, encoded, batch, 0.0, 0.5).attention) for _ in range(3)}
    assert len(true) == 1
    assert len(drawn) == 3
    assert not true & drawn


def test_word_errors_count_words() -> None:
    assert word_errors("go on and on", "go and on on") == (2, 4)
    assert word_errors("go on", "") == (2, 2)
    assert word_errors("go on", "go on") == (0, 2)
    assert word_errors("", "oh no") == (2, 0)


# Whole runs


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


class KilledError(Exception):
    """Stands for a kill -9: nothing of ours answers to it."""


class Witness:
    """Sees the weights that enter each step of a run and those it ends with, and can end it in the middle."""

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


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    return Witness(monkeypatch)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    soundfile.write(folder / "hiss.wav", np.random.default_rng(1).normal(0, 0.1, 4_000), 16_000)
    return folder


@pytest.fixture
def run(packed: Path, noise: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train on the tiny corpus into a folder of the given name."""

    def run(name: str = "run", config: TrainConfig = RUN, **options: Any) -> Path:
        return train(config, packed, packed, tmp_path / name, noise, device="cpu", **options)

    return run


class Unbroken:
    """What a run that nothing happened to saw: made once, to compare with."""

    def __init__(self, entering: dict[int, list[Tensor]], final: list[Tensor]) -> None:
        self.entering, self.final = entering, final

    def equals(self, witness: Witness) -> None:
        assert sorted(witness.entering) == sorted(self.entering) == list(range(10))
        for step, weights in self.entering.items():
            assert_same(weights, witness.entering[step])
        assert_same(self.final, witness.final)


@pytest.fixture(scope="module")
def unbroken(packed: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(patch)
        train(RUN, packed, packed, tmp_path_factory.mktemp("unbroken"), noise, device="cpu")
    return Unbroken(witness.entering, witness.final)


def steps(printed: str) -> list[int]:
    """At which steps dev was measured."""
    return [int(line.split()[1]) for line in printed.splitlines()]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert a
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_run_says_what_it_measures_and_nothing_else(
    run: Callable[..., Path], witness: Witness, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each measurement, the last step's included; no warning, no advertisement, no table."""
    best = run()
    out, err = capfd.readouterr()
    assert steps(out) == [4, 8, 10]
    assert "wer" in out
    assert err == ""
    assert caplog.messages == []
    assert sorted(witness.entering) == list(range(10))
    loaded = checkpoint.load(best)
    assert loaded.model.config.search == RUN.search
    assert loaded.model.config.streaming == RUN.streaming
    assert float(loaded.model.features.std.mean()) != 1.0


def test_a_run_with_a_worker_is_as_quiet_and_the_same(
    run: Callable[..., Path],
    witness: Witness,
    unbroken: Unbroken,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(config=dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, workers=1)))
    out, err = capfd.readouterr()
    assert (steps(out), err, caplog.messages) == ([4, 8, 10], "", [])
    unbroken.equals(witness)


@pytest.mark.parametrize("kills", [(1,), (3,), (4,), (6, 9)], ids=str)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    run: Callable[..., Path],
    witness: Witness,
    unbroken: Unbroken,
    capfd: pytest.CaptureFixture[str],
    kills: tuple[int, ...],
) -> None:
    """Promise 8: whenever it is killed, the run that is resumed has, step by step, the weights of one that was not."""
    measured = []
    for kill in kills:
        witness.kill_at(kill)
        with pytest.raises(KilledError):
            run("killed")
        measured += steps(capfd.readouterr().out)
    witness.kill_at(None)
    run("killed")
    out, err = capfd.readouterr()
    assert sorted(set(measured + steps(out))) == [4, 8, 10]
    assert err == ""
    unbroken.equals(witness)


def test_a_run_killed_while_it_measures_measures_again(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where a save and a measurement fall on the same step, the save does not make the measurement look done."""

    def killed(step: int) -> float:
        raise KilledError

    witness.dev_wer = killed
    with pytest.raises(KilledError):
        run()
    witness.dev_wer = None
    capfd.readouterr()
    run()
    assert steps(capfd.readouterr().out) == [4, 8, 10]
    unbroken.equals(witness)


def test_a_run_that_is_out_of_time_stops_and_goes_on_from_its_own_weights(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """It measures where it stops, and saves the trained weights and not their average; each start has its own time."""
    for _ in range(2):
        run(max_minutes=1e-9)
    assert steps(capfd.readouterr().out) == [1, 2]
    run(max_minutes=60)
    unbroken.equals(witness)


def test_a_finished_run_is_not_run_again(run: Callable[..., Path], witness: Witness) -> None:
    best = run()
    before = (best / "model.safetensors").stat().st_mtime_ns
    witness.entering.clear()
    assert run() == best
    assert not witness.entering
    assert (best / "model.safetensors").stat().st_mtime_ns == before


def test_the_best_so_far_survives_the_kill(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """What a resumed run finds worse than before the kill does not take the best one's place; what is better does."""
    witness.dev_wer = {4: 0.5, 8: 0.6, 10: 0.55}.__getitem__
    witness.kill_at(6)
    with pytest.raises(KilledError):
        run()
    weights = tmp_path / "run" / "best" / "model.safetensors"
    best = weights.read_bytes()
    witness.kill_at(None)
    run()
    assert weights.read_bytes() == best
    witness.dev_wer = {12: 0.4}.__getitem__
    run(config=dataclasses.replace(RUN, optimiser=dataclasses.replace(RUN.optimiser, max_steps=12)))
    assert weights.read_bytes() != best


def test_the_best_model_is_the_average_that_was_measured(
    run: Callable[..., Path], witness: Witness, tmp_path: Path
) -> None:
    """The checkpoint holds the averaged weights; at the last step these are what the run ends with."""
    witness.dev_wer = {4: 0.5, 8: 0.4, 10: 0.3}.__getitem__
    saved = checkpoint.load(run()).model.state_dict()
    for (name, weights), final in zip(saved.items(), witness.final, strict=True):
        torch.testing.assert_close(weights, final, atol=1e-2, rtol=2e-3, check_dtype=False, msg=name)
    trained = witness.entering[9]
    assert max(float((a - b).abs().max()) for a, b in zip(trained, witness.final, strict=True)) > 1e-2


def test_a_step_that_is_not_finite_is_left_out(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """A bad batch changes no weight, although the optimiser has momentum; it is counted, and the next step learns."""
    witness.loss = lambda step, loss: loss * (torch.nan if step in (5, 7) else 1)
    no_statistics = dataclasses.replace(RUN, encoder=dataclasses.replace(RUN.encoder, normalisation="layer"))
    logged: list[tuple[int, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lightning.pytorch.loggers.TensorBoardLogger.log_metrics",
            lambda self, metrics, step: logged.extend(
                [(step, metrics["train/skipped"])] if "train/skipped" in metrics else []
            ),
        )
        patch.setattr("lightning.pytorch.trainer.connectors.logger_connector._LoggerConnector.should_update_logs", True)
        witness.kill_at(7)
        with pytest.raises(KilledError):
            run(config=no_statistics)
        witness.kill_at(None)
        run(config=no_statistics)
    changed = {
        step: any(
            not torch.equal(a, b) for a, b in zip(witness.entering[step], witness.entering[step + 1], strict=True)
        )
        for step in range(9)
    }
    assert [step for step, moved in changed.items() if not moved] == [5, 7]
    assert all(torch.isfinite(w).all() for w in witness.final)
    assert logged[-1] == (9, 2.0)


def test_an_interrupted_run_is_saved_and_goes_on(
    run: Callable[..., Path], witness: Witness, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C: the step under way ends, nothing is measured, the run is saved, and later ends as an unbroken one."""
    witness.before_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 6 else None
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("interrupted")
    assert signal.getsignal(signal.SIGINT) is before
    assert sorted(witness.entering) == list(range(7))
    assert steps(capfd.readouterr().out) == [4]
    witness.before_step = lambda step: None
    run("interrupted")
    unbroken.equals(witness)


def test_a_second_interrupt_stops_at_once(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """Who does not want to wait for the step presses again: what was saved last is what there is."""

    def twice(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    witness.before_step = twice
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert signal.getsignal(signal.SIGINT) is before
    assert sorted(witness.entering) == list(range(5))
    witness.before_step = lambda step: None
    witness.entering.clear()
    run()
    assert sorted(witness.entering) == list(range(4, 10))


def test_what_does_not_fit_is_one_line(
    run: Callable[..., Path], packed: Path, tmp_path: Path, witness: Witness
) -> None:
    """Another model than the one begun, a damaged save, no noise, no device, nothing left to learn from."""

    def said(kind: type[SpellstreamError], *arguments: Any, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            run(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    witness.kill_at(4)
    with pytest.raises(KilledError):
        run()
    witness.kill_at(None)
    wider = dataclasses.replace(RUN, decoder=DecoderConfig(hidden_size=10, embedding_size=4))
    message = said(CheckpointError, config=wider)
    assert "another model" in message
    assert "(32, 6)" in message or "decoder" in message
    deeper = dataclasses.replace(RUN, encoder=dataclasses.replace(RUN.encoder, joins=(2, 2, 1)))
    assert "encoder.layers.2" in said(CheckpointError, config=deeper)
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert str(last) in said(CheckpointError)
    short = dataclasses.replace(RUN, data=DataConfig(min_seconds=1.9, max_seconds=2, batch_seconds=2, workers=0))
    assert "no utterance is left" in said(DataError, "short", short)
    for folder in (tmp_path / "nowhere", tmp_path):
        (tmp_path / "nowhere").mkdir() if folder == tmp_path else None
        with pytest.raises(DataError, match="nowhere"):
            train(RUN, packed, packed, tmp_path / "x", tmp_path / "nowhere", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            train(RUN, packed, packed, tmp_path / "y", device="cuda")


def test_a_run_can_start_from_a_model(run: Callable[..., Path], witness: Witness, tmp_path: Path) -> None:
    """It keeps the model's weights, tokenizer and statistics, and takes search and streaming from its own config."""
    witness.dev_wer = {4: 0.5, 8: 0.4, 10: 0.3, 1: 0.2}.__getitem__
    first = run()
    other = dataclasses.replace(
        RUN,
        init=str(first),
        search=SearchConfig(beam_size=7),
        streaming=Context(chunk_ms=640),
        optimiser=dataclasses.replace(RUN.optimiser, max_steps=1, decay_steps=0, learning_rate=1e-9),
    )
    second = checkpoint.load(run("second", other))
    began = checkpoint.load(first)
    assert second.model.config == dataclasses.replace(
        began.model.config, search=other.search, streaming=other.streaming
    )
    for name, weights in began.model.named_parameters():
        torch.testing.assert_close(second.model.get_parameter(name), weights, atol=1e-4, rtol=1e-3)
