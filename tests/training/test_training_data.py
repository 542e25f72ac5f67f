"""Training data: augmentation, batches, prepared corpora and their errors."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.config import FeatureConfig
from asr.errors import AudioError, DataError
from asr.model.features import LogMel
from asr.text.tokenizer import Tokenizer
from asr.training.augment import limit_bandwidth, mask_spectrum, perturb_waveform
from asr.training.config import (
    AugmentConfig,
    DataConfig,
)
from asr.training.data import Corpus, LasData
from asr.training.sampler import BucketSampler
from asr.training.statistics import FeatureStatistics, describe, feature_statistics, measure_features, write_statistics
from tests.support.tiny_run import TEXTS, prepared

OFF = AugmentConfig(speeds=(), gain_db=0.0, noise_probability=0.0, bandwidth_probability=0.0, time_masks=0, mel_masks=0)


def test_speed_changes_length_and_pitch() -> None:
    """A tone played 10 % faster is 10 % shorter and 10 % higher; shorter rows shrink by the same factor."""
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
    """The signal-to-noise ratio over each row's own samples is the configured one, even with uneven noise."""
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
    """Each row keeps its low bins; above a cut-off that is at least the minimum, all bins are at the floor."""
    centres, floor = torch.linspace(100, 8_000, 40), torch.linspace(-3, -2, 40)
    features = torch.randn(300, 5, 40)
    config = dataclasses.replace(OFF, bandwidth_probability=0.5, bandwidth_min_hz=3_000.0)
    narrow = limit_bandwidth(features, centres, floor, config)
    gone = (narrow == floor).all(1)  # (rows, bins)
    assert torch.equal(narrow[~gone[:, None].expand_as(narrow)], features[~gone[:, None].expand_as(narrow)])
    assert not gone[:, centres <= 3_000].any()
    assert (gone.int().diff(dim=1) >= 0).all()  # all bins above the first at the floor are too
    assert float(gone.any(1).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert len(gone.sum(1).unique()) > 10


def test_masks_stay_inside_utterances_and_their_shares() -> None:
    """SpecAugment masks at most the configured frames and bins, and never a whole short utterance."""
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


FRAME = 0.08
SECONDS = np.random.default_rng(1).uniform(0.5, 9, 60).tolist()
DATA = DataConfig(batch_seconds=20, max_seconds=10)


def take(sampler: BucketSampler, count: int) -> list[list[int]]:
    return list(itertools.islice(sampler, count))


def test_batches_are_bounded_and_every_utterance_comes_once_a_pass() -> None:
    sampler = BucketSampler(SECONDS, DATA, seed=3)
    for number in range(3):
        batches = list(sampler.one_pass(number))
        assert sorted(i for batch in batches for i in batch) == list(range(60))
        assert all(len(batch) * max(SECONDS[i] for i in batch) <= 20 for batch in batches)
        assert len(batches) <= 2 * sum(SECONDS) / 20  # with little padding


def test_the_first_pass_goes_from_short_to_long_and_later_ones_do_not() -> None:
    sampler = BucketSampler(SECONDS, DATA, seed=3)
    first, second = ([max(SECONDS[i] for i in batch) for batch in sampler.one_pass(number)] for number in (0, 1))
    assert first == sorted(first)
    assert any(b < a * 0.9 for a, b in itertools.pairwise(second))


def test_the_order_depends_on_the_seed_alone_and_can_be_entered_anywhere() -> None:
    """A run resumed at step 30, in a later pass, gets the same batches as an uninterrupted one."""
    unbroken = BucketSampler(SECONDS, DATA, seed=3)
    whole = take(unbroken, 80)
    assert take(BucketSampler(SECONDS, DATA, seed=3), 80) == whole
    assert take(BucketSampler(SECONDS, DATA, seed=4), 80) != whole
    assert len(unbroken.starts) > 2
    for first, starts in itertools.product((1, 30, 79), ((0,), unbroken.starts)):
        sampler = BucketSampler(SECONDS, DATA, seed=3)
        sampler.start_at(first, starts)
        assert take(sampler, 80 - first) == whole[first:]


def test_a_late_pass_is_entered_without_the_ones_before(monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = BucketSampler(SECONDS, DATA, seed=3)
    whole = take(unbroken, 80)
    sampler = BucketSampler(SECONDS, DATA, seed=3)
    sampler.start_at(79, unbroken.starts)
    passes: list[int] = []
    one_pass = BucketSampler.one_pass
    monkeypatch.setattr(
        BucketSampler, "one_pass", lambda self, number: (passes.append(number), one_pass(self, number))[1]
    )
    assert take(sampler, 1) == whole[79:]
    assert passes == [len(unbroken.starts) - 1]


@pytest.mark.parametrize("count", [60, 7, 1])
def test_ranks_share_a_pass_and_take_as_many_steps(count: int) -> None:
    """Three ranks get different batches of similar length; a batch repeats only if too few are left."""
    ranks = [BucketSampler(SECONDS[:count], DATA, seed=3, rank=rank, world_size=3) for rank in range(3)]
    shares = [list(sampler.one_pass(1)) for sampler in ranks]
    assert len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in share)
    dealt = Counter(i for share in shares for batch in share for i in batch)
    assert sorted(dealt) == list(range(count))
    assert dealt.total() <= count + 2


def test_weights_say_how_often_an_utterance_comes() -> None:
    weights = [2.0] * 20 + [1.0] * 20 + [0.25] * 20
    sampler = BucketSampler(SECONDS, DATA, seed=3, weights=weights)
    dealt = Counter(i for number in range(1, 41) for batch in sampler.one_pass(number) for i in batch)
    assert {dealt[i] for i in range(20)} == {80}
    assert {dealt[i] for i in range(20, 40)} == {40}
    assert sum(dealt[i] for i in range(40, 60)) == pytest.approx(200, abs=40)


def test_nothing_to_train_on_is_said_so() -> None:
    with pytest.raises(DataError, match=r"no utterance is left.*data\.min_seconds"):
        BucketSampler([], DATA, seed=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings and their prepared corpus `prepared`."""
    folder = tmp_path_factory.mktemp("recordings")
    prepared(folder)
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the prepared corpus that a test may damage."""
    shutil.copytree(recorded / "prepared", tmp_path / "prepared")
    return tmp_path / "prepared"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 20, "char")


def test_a_prepared_corpus_holds_the_samples_and_texts(recorded: Path, tokenizer: Tokenizer) -> None:
    corpus = Corpus.open(recorded / "prepared").tokenise(tokenizer, DataConfig(), FRAME)
    assert [entry.text for entry in corpus.entries] == list(TEXTS)
    for i, text in enumerate(TEXTS):
        expected, _ = soundfile.read(recorded / f"{i}.wav", dtype="float32")
        np.testing.assert_array_equal(corpus[i].waveform, expected)
        assert tokenizer.decode(corpus[i].tokens.tolist()) == text


def test_what_does_not_fit_is_left_out_and_counted(recorded: Path, tokenizer: Tokenizer) -> None:
    corpus = Corpus.open(recorded / "prepared")
    kept = corpus.tokenise(tokenizer, DataConfig(min_seconds=0.6, max_seconds=0.8), FRAME)
    assert [e.text for e in kept.entries] == [
        text for i, text in enumerate(TEXTS) if 9_600 <= 8_000 + 1_000 * i <= 12_800
    ]
    assert kept.left_out == {"shorter than 0.6 s": 2, "longer than 0.8 s": 3}
    long = dataclasses.replace(corpus.entries[0], text="on no go on no hog")
    crowded = Corpus([long, *corpus.entries]).tokenise(tokenizer, DataConfig(), FRAME)
    assert len(crowded) == 8
    assert crowded.left_out == {"with more than a token in 80 ms, a frame of the encoder": 1}
    assert len(Corpus([long]).tokenise(tokenizer, DataConfig(), FRAME / 4)) == 1


def test_corpora_are_joined_by_weight(recorded: Path, folder: Path) -> None:
    corpus = Corpus.open([recorded / "prepared", folder], [1.0, 0.5])
    assert [entry.weight for entry in corpus.entries] == [1.0] * 8 + [0.5] * 8
    assert corpus.entries[8].audio.is_relative_to(folder)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="its weight is"):
            Corpus.open([folder], [weight])


def test_batches_go_on_where_the_checkpoint_says(recorded: Path, tokenizer: Tokenizer) -> None:
    """Batches that workers fetched ahead of the saved step come again after resuming."""
    corpus = Corpus.open(recorded / "prepared").tokenise(tokenizer, DataConfig(), FRAME)
    config = DataConfig(batch_seconds=2, max_seconds=2, workers=0)
    data = LasData(corpus, corpus, config, seed=3)
    batches = list(itertools.islice(data.train_dataloader(), 12))
    assert sum(len(batch.samples) for batch in batches[:4]) == 8
    assert all(batch.waveform.shape == (len(batch.samples), max(batch.samples)) for batch in batches)
    resumed = LasData(corpus, corpus, config, seed=3)
    resumed.load_state_dict(json.loads(json.dumps(data.state_dict())))
    trainer = type("Trainer", (), {"global_step": 3, "accumulate_grad_batches": 2, "global_rank": 0, "world_size": 1})
    resumed.trainer = trainer()
    for old, new in zip(batches[6:], resumed.train_dataloader(), strict=False):
        assert torch.equal(old.waveform, new.waveform)
        assert torch.equal(old.tokens, new.tokens)


def trainer_of(rank: int, world_size: int) -> Any:
    return SimpleNamespace(global_step=0, accumulate_grad_batches=1, global_rank=rank, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_processes_share_dev(recorded: Path, tokenizer: Tokenizer, world_size: int) -> None:
    """Each process measures part of dev, in equally many batches; if processes outnumber utterances, all of dev."""
    corpus = Corpus.open(recorded / "prepared").tokenise(tokenizer, DataConfig(), FRAME)
    corpus = dataclasses.replace(corpus, entries=corpus.entries * 5) if world_size < 9 else corpus
    shares = []
    for rank in range(world_size):
        data = LasData(corpus, corpus, DataConfig(), seed=3)
        data.trainer = trainer_of(rank, world_size)
        shares.append(list(data.val_dataloader().batch_sampler))  # type: ignore[arg-type]
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= 16 for share in shares for batch in share)
    measured = Counter(i for share in shares for batch in share for i in batch)
    assert measured == Counter(dict.fromkeys(range(len(corpus)), world_size if world_size == 9 else 1))


@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_linked_audio_that_became_shorter_is_one_line(recorded: Path, tmp_path: Path, sample_rate: int) -> None:
    """Audio at other rates than 16 kHz was cut without a word, and trained on with the whole text."""
    entry = Corpus.open(recorded / "prepared").entries[0]
    audio = tmp_path / "linked.flac"
    linked = dataclasses.replace(entry, audio=audio, start_seconds=0.0, seconds=0.5, at_16_khz=sample_rate == 16_000)
    soundfile.write(audio, np.zeros(sample_rate // 2, np.float32), sample_rate)
    assert abs(len(Corpus([linked]).waveform(0)) - 8_000) < 100
    soundfile.write(audio, np.zeros(sample_rate // 3, np.float32), sample_rate)
    with pytest.raises(AudioError, match=r"linked\.flac: is shorter than it was"):
        Corpus([linked]).waveform(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_is_gone_is_one_line_from_a_worker_too(folder: Path, tokenizer: Tokenizer, workers: int) -> None:
    """Missing audio in a worker is one line, rather than torch's page-long error around it."""
    corpus = Corpus.open(folder).tokenise(tokenizer, DataConfig(), FRAME)
    (folder / "audio" / "000000.wav").unlink()
    data = LasData(corpus, corpus, DataConfig(workers=workers), seed=3)
    found = next(iter(data.train_dataloader()))
    with pytest.raises(AudioError, match=r"^[^\n]*000000\.wav: cannot be read any more[^\n]*$"):
        data.on_before_batch_transfer(found, 0)


def test_what_is_no_prepared_corpus_is_one_line(folder: Path, tmp_path: Path) -> None:
    """Broken corpora (missing, not gzip, truncated, not JSON, wrong keys, audio shorter or gone) are one line."""

    def said(kind: type[Exception] = DataError) -> str:
        with pytest.raises(kind) as caught:
            Corpus.open(folder).waveform(7)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(DataError, match="not a prepared corpus"):
        Corpus.open(tmp_path / "nowhere")
    audio = folder / "audio" / "000000.wav"
    audio.write_bytes(audio.read_bytes()[:-2_000])
    assert "prepare it again" in said(AudioError)
    audio.write_bytes(b"")
    said(AudioError)
    audio.unlink()
    said(AudioError)
    cuts = folder / "cuts.jsonl.gz"
    whole = cuts.read_bytes()
    for content in (whole[:-20], whole[:50], b"no gzip", gzip.compress(b"no json"), gzip.compress(b'{"id": 1}\n')):
        cuts.write_bytes(content)
        assert "cuts.jsonl.gz" in said()


def test_statistics_are_of_each_corpus_and_of_all(recorded: Path) -> None:
    entries = Corpus.open(recorded / "prepared").entries
    entries = [dataclasses.replace(entry, speaker="ab"[i % 2]) for i, entry in enumerate(entries)]
    other = dataclasses.replace(entries[0], corpus="other", text="né", seconds=2.0, speaker=None)
    table = describe([*entries, other])
    assert list(table) == ["other", "test", "all"]
    assert table["test"]["utterances"] == 8
    assert table["test"]["hours"] == round(sum(0.5 + i / 16 for i in range(8)) / 3600, 3)
    assert table["test"]["speakers"] == 2
    assert table["test"]["seconds"] | {"5%": 0, "95%": 0} == {"min": 0.5, "5%": 0, "50%": 0.72, "95%": 0, "max": 0.9375}
    assert (table["test"]["words"], table["test"]["letters"]) == (10, len("".join(TEXTS)))
    assert table["test"]["out_of_alphabet"] == {}
    assert table["all"]["out_of_alphabet"] == {"é": 1}


def test_stored_features_are_what_was_measured(recorded: Path, folder: Path) -> None:
    """Features normalised by the stored statistics have mean 0 and deviation 1; two corpora count by their hours."""
    corpus, config = Corpus.open(recorded / "prepared"), FeatureConfig(n_mels=12)
    features = LogMel(config)
    measured = measure_features(corpus, features)
    features.mean.copy_(measured.mean)
    features.std.copy_(measured.std)
    frames = torch.cat([features(corpus.waveform(i)[None], torch.tensor([10**6]))[0][0] for i in range(8)])
    torch.testing.assert_close(frames.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(12), atol=1e-2, rtol=0)

    assert feature_statistics([folder], config) is None
    write_statistics(folder, {"all": {"hours": 1.0}}, config, measured)
    stored = feature_statistics([folder], config)
    assert stored is not None
    torch.testing.assert_close(stored.std, measured.std)
    assert feature_statistics([folder], FeatureConfig(n_mels=13)) is None
    assert feature_statistics([folder, recorded / "prepared"], config) is None
    two, ones = folder.parent / "two", torch.ones(12)
    two.mkdir()
    write_statistics(folder, {"all": {"hours": 3.0}}, config, FeatureStatistics(0 * ones, ones))
    write_statistics(two, {"all": {"hours": 1.0}}, config, FeatureStatistics(4 * ones, ones))
    both = feature_statistics([folder, two], config)
    assert both is not None
    torch.testing.assert_close(both.mean, ones)
    torch.testing.assert_close(both.std, 2 * ones)  # variance 1 within each, and 3 between their means
    for damaged in ("", "[]", "{}", (two / "statistics.json").read_text().replace("4.0", "NaN", 1)):
        (two / "statistics.json").write_text(damaged)
        with pytest.raises(DataError, match=r"statistics\.json: damaged"):
            feature_statistics([two], config)
