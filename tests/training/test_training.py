"""Settings of a training run, the joint loss, and errors on dev."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, FeatureConfig, ModelConfig
from asr.errors import ConfigError
from asr.model.las import Model
from asr.model.normalisation import Normalisation
from asr.text.tokenizer import EOS, SOS, Tokenizer
from asr.training.config import (
    AugmentConfig,
    DataConfig,
    Growth,
    OptimiserConfig,
    TrainConfig,
    read_config,
)
from asr.training.data import Batch, Item, collate
from asr.training.module import LasModule, joint_loss
from asr.training.precision import autocast


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
        ("sede = 1", "sede is not a setting"),
        ("[optimiser]\nlearning_rate = -1", "optimiser.learning_rate is -1.0"),
        ("[optimiser]\nclip_norm = 0", "optimiser.clip_norm is 0.0"),
        ("[data]\nbatch_seconds = 1", "data.batch_seconds is 1.0"),
        ("[augment]\nnoise_snr_db = [5]", "augment.noise_snr_db is (5.0,)"),
        ("[augment]\nspeeds = [0]", "augment.speeds is (0.0,)"),
        ("[augment]\ntime_mask_share = 2", "augment.time_mask_share is 2.0"),
        ("chunk_ms = []", "chunk_ms is ()"),
        ("lookahead_ms = [-60]", "lookahead_ms is (-60,)"),
        ("save_every = 0", "save_every is 0"),
        ("patience = -1", "patience is -1"),
        ("ctc_weight_end = 2", "ctc_weight_end is 2.0"),
        ('precision = "float16"', "precision is 'float16'"),
        ("[augment]\nreverb_seconds = [0, 1]", "augment.reverb_seconds is (0.0, 1.0)"),
        ("[augment]\ncodec_probability = 2", "augment.codec_probability is 2.0"),
        ("[[growth]]\nuntil_step = 30000\njoins = [4]", "growth: until_step is [30000]"),
        ("[[growth]]\nuntil_step = 9\njoins = [4]\n[[growth]]\nuntil_step = 9\njoins = [4]", "growth: until_step"),
        ("[[growth]]\nuntil_step = 9\njoins = [1, 1, 1, 1, 1]", "growth: joins"),
        ('init = "default"\n[[growth]]\nuntil_step = 9\njoins = [4]', "init is 'default'"),
        ("extends = 3", "extends is 3"),
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


def test_a_config_extends_another_table_by_table(tmp_path: Path) -> None:
    """A config's own values override those of the config that it extends, table by table; lists are replaced whole."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text(
        "seed = 1\nchunk_ms = [0, 240]\n[optimiser]\nmax_steps = 500\ndecay_steps = 7\n"
    )
    path = tmp_path / "sub" / "run.toml"
    path.write_text('extends = "../base.toml"\nchunk_ms = [360]\n[optimiser]\nmax_steps = 600\n')
    config = read_config(path)
    assert (config.seed, config.chunk_ms) == (1, (360,))
    assert (config.optimiser.max_steps, config.optimiser.decay_steps) == (600, 7)


def test_a_second_level_of_extension_is_refused(tmp_path: Path) -> None:
    for name, text in (
        ("c", ""),
        ("b", 'extends = "c.toml"'),
        ("a", 'extends = "b.toml"'),
        ("d", 'extends = "e.toml"'),
    ):
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.toml extends .*b\.toml, which extends c\.toml"):
        read_config(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"e\.toml: No such file"):
        read_config(tmp_path / "d.toml")


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    """Options override configs: values as in TOML, or plain strings; a tokenizer may be a path."""
    path = tmp_path / "run.toml"
    path.write_text('tokenizer = "a.model"\n[optimiser]\nmax_steps = 3000\n')
    config = read_config(
        path, ["optimiser.max_steps=9000", "chunk_ms=[0, 400]", "tokenizer=b/c.model", "init=run/best"]
    )
    assert (config.optimiser.max_steps, config.chunk_ms, config.init) == (9000, (0, 400), "run/best")
    assert (config.tokenizer.path, read_config(path).tokenizer.path) == ("b/c.model", "a.model")
    for wrong in ("max_steps", "=3", "optimiser..x=1"):
        with pytest.raises(ConfigError, match="write key=value"):
            read_config(path, [wrong])
    with pytest.raises(ConfigError, match="sede is not a setting"):
        read_config(path, ["sede=1"])


def test_the_weight_of_ctc_goes_from_one_value_to_another() -> None:
    config = TrainConfig(ctc_weight=0.8, ctc_weight_end=0.2, ctc_weight_steps=10)
    assert [config.ctc_weight_at(step) for step in (0, 5, 10, 99)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert {TrainConfig(ctc_weight=0.4).ctc_weight_at(step) for step in (0, 10_000)} == {0.4}


def test_a_run_that_grows_has_stages() -> None:
    joins = ((4,), (2, 2))
    config = TrainConfig(growth=tuple(Growth(step, j) for step, j in zip((10, 30), joins, strict=True)))
    stages = [(s.first_step, s.until_step, s.encoder.joins) for s in config.stages()]
    assert stages == [(0, 10, (4,)), (10, 30, (2, 2)), (30, 20_000, config.encoder.joins)]
    assert [(s.first_step, s.until_step) for s in TrainConfig().stages()] == [(0, 20_000)]


def test_a_batch_that_is_not_finite_leaves_the_running_statistics_alone() -> None:
    """A non-finite batch must not change batch normalisation's running statistics, which would never recover."""
    layer = Normalisation("batch", 4).train()
    good, lengths = torch.randn(2, 5, 4) + 1, torch.tensor([5, 3])
    layer(good, lengths)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert before["batch.running_mean"].abs().min() > 0
    layer(good.masked_fill(torch.arange(5)[:, None] == 1, torch.inf), lengths)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    layer(good, lengths)
    assert not torch.equal(layer.state_dict()["batch.running_mean"], before["batch.running_mean"])


def test_the_learning_rate_rises_holds_and_falls() -> None:
    settings = OptimiserConfig(warmup_steps=10, decay_steps=20, max_steps=100)
    scales = [settings.scale(step) for step in range(101)]
    assert scales[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(scales[10:81]) == {1.0}
    assert scales[90] == pytest.approx(0.5)
    assert 0 < scales[100] < 0.06
    assert OptimiserConfig(warmup_steps=0, decay_steps=0).scale(0) == 1.0
    # A run shorter than its decay decays throughout; it was refused, even in an example of finetune's help.
    assert OptimiserConfig(warmup_steps=0, decay_steps=200, max_steps=100).scale(50) == 0.5


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
    """A batch's loss is the mean of its utterances' own losses, weighted by tokens: padding has no effect."""
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
    """For one utterance, attention loss is smoothed cross-entropy over tokens and eos, and CTC loss is torch's."""
    model, batch = Model(TINY), random_batch([9_000], [3])
    encoded = model.encode(batch.waveform, batch.samples)
    inputs, targets = torch.tensor([[SOS, *batch.tokens[0].tolist()]]), torch.tensor([*batch.tokens[0].tolist(), EOS])
    log_probs = model.decoder(inputs, *encoded)[0][0].log_softmax(-1)
    right = log_probs.gather(1, targets[:, None]).mean()
    losses = joint_loss(model, encoded, batch, 0.0, 0.0)
    torch.testing.assert_close(losses.attention, -right)
    assert losses.accuracy == (log_probs.argmax(-1) == targets).float().mean()
    smooth = joint_loss(model, encoded, batch, 0.2, 0.0)
    torch.testing.assert_close(smooth.attention, -(0.8 * right + 0.2 * log_probs.mean()))
    torch.testing.assert_close(smooth.cross_entropy, losses.attention)
    ctc = torch.nn.functional.ctc_loss(
        model.ctc_log_probs(encoded.encoder_out)[0],
        batch.tokens[0],
        encoded.encoder_out_lengths,
        torch.tensor([3]),
        reduction="sum",
    )
    torch.testing.assert_close(losses.ctc, ctc / 3)


def test_too_few_frames_for_the_tokens_cost_nothing_and_spoil_nothing() -> None:
    """With fewer frames than tokens, or none, the loss and its gradient stay finite."""
    model, batch = Model(TINY), random_batch([16_000, 1_500, 300], [4, 10, 2])
    encoded = model.encode(batch.waveform, batch.samples)
    assert encoded.encoder_out_lengths.tolist()[1:] == [2, 0]
    losses = joint_loss(model, encoded, batch, 0.1, 0.0)
    (losses.attention + losses.ctc).backward()
    assert torch.isfinite(losses.attention)
    assert 0 < losses.ctc < 1e3
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_scheduled_sampling_shows_the_decoder_its_own_words() -> None:
    """At rate 0 the decoder gets the reference history; above, its own tokens are sampled, so the loss varies."""
    model, batch = Model(TINY), random_batch([16_000] * 4, [8] * 4)
    encoded = model.encode(batch.waveform, batch.samples)
    true = {float(joint_loss(model, encoded, batch, 0.0, 0.0).attention) for _ in range(3)}
    drawn = {float(joint_loss(model, encoded, batch, 0.0, 0.5).attention) for _ in range(3)}
    assert len(true) == 1
    assert len(drawn) == 3
    assert not true & drawn


@torch.no_grad()
def test_training_hears_the_level_that_recognition_hears() -> None:
    """Only recognition brought speech to the model's level; fine-tuning then learned from louder or quieter speech."""
    augment = dataclasses.replace(AugmentConfig(), gain_db=0.0)
    batch = random_batch([16_000, 9_000], [6, 3])
    levels = [batch._replace(waveform=factor * batch.waveform) for factor in (0.1, 0.4)]
    for speech_db, same in ((-26.0, True), (None, False)):
        model = Model(dataclasses.replace(TINY, speech_db=speech_db))
        module = LasModule(model, Tokenizer.train(["a"], 8, "char"), TrainConfig(augment=augment))
        losses = [float(module.losses(b, step=0).ctc) for b in levels]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) == same


def test_in_mixed_precision_scheduled_sampling_leaves_every_weight_its_gradient() -> None:
    """Sampling runs first, without gradients; autocast must not reuse its cached casts of weights for the loss."""
    model, batch = Model(TINY), random_batch([16_000] * 4, [8] * 4)
    with autocast(torch.device("cpu")):
        losses = joint_loss(model, model.encode(batch.waveform, batch.samples), batch, 0.0, 0.5)
    (losses.attention + losses.ctc).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
