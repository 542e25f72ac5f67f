"""Training data: what is done to the audio, in which batches it comes, and how a corpus is packed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_run import TEXTS, recordings

from asr.errors import DataError
from asr.manifest import Utterance, write
from asr.tokenizer import Tokenizer
from asr.training.augment import limit_bandwidth, mask_spectrum, perturb_waveform
from asr.training.config import (
    AugmentConfig,
    DataConfig,
)
from asr.training.data import BucketSampler, Corpus, pack

OFF = AugmentConfig(speeds=(), gain_db=0.0, noise_probability=0.0, bandwidth_probability=0.0, time_masks=0, mel_masks=0)


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


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("recordings"))


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
