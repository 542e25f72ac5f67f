"""Settings: they survive JSON, and errors name what is wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from asr.config import (
    AttentionConfig,
    Context,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    HybridConfig,
    ModelConfig,
    SearchConfig,
    from_dict,
    to_dict,
)
from asr.errors import ConfigError

UNUSUAL = ModelConfig(
    vocab_size=77,
    features=FeatureConfig(n_mels=40, f_max=7_600.0),
    encoder=EncoderConfig((3, 2, 1), 64, False, 0.0, True, "batch", HybridConfig(2, 8, 50, "sinusoidal")),
    attention=AttentionConfig("multi_head", 64, 4, window_frames=30),
    decoder=DecoderConfig(2, 32, 16, 0.5),
    search=SearchConfig(beam_size=4, nbest=3, lm_weight=0.25),
    streaming=Context.causal(),
)


@pytest.mark.parametrize("config", [ModelConfig(vocab_size=30), UNUSUAL], ids=["default", "unusual"])
def test_settings_survive_json(config: ModelConfig) -> None:
    """Settings survive JSON, including tuples, None and floats without a decimal point."""
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_what_is_left_out_has_its_default() -> None:
    """Missing settings have their defaults, so a config need only name the others."""
    config = from_dict(ModelConfig, {"vocab_size": 30, "encoder": {"hidden_size": 12, "dropout": 0}})
    assert config == ModelConfig(30, encoder=EncoderConfig(hidden_size=12, dropout=0.0))
    assert isinstance(config.encoder.dropout, float)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNUSUAL.vocab_size = 3  # type: ignore[misc]


WRONG: list[tuple[dict[str, Any], str]] = [
    # unknown and missing names
    ({"encoder": {"hiden_size": 8}}, r"config\.encoder\.hiden_size is not a setting; there are .*hidden_size"),
    ({"colour": 1}, r"config\.colour is not a setting"),
    ({"encoder": {"hybrid": {"head": 2}}}, r"config\.encoder\.hybrid\.head is not a setting"),
    # types
    ({"vocab_size": "30"}, r"config\.vocab_size is '30': it must be of type int"),
    ({"vocab_size": 30.0}, r"config\.vocab_size is 30\.0: it must be of type int"),
    ({"vocab_size": True}, r"config\.vocab_size is True: it must be of type int"),
    ({"vocab_size": None}, r"config\.vocab_size is None: it must be of type int"),
    ({"encoder": []}, r"config\.encoder is \[\]: it must be a table"),
    ({"encoder": {"joins": 2}}, r"config\.encoder\.joins is 2: it must be a list"),
    ({"encoder": {"joins": [2, "2"]}}, r"config\.encoder\.joins\[1\] is '2': it must be of type int"),
    ({"encoder": {"residual": 1}}, r"config\.encoder\.residual is 1: it must be of type bool"),
    ({"encoder": {"dropout": "much"}}, r"config\.encoder\.dropout is 'much': it must be of type float"),
    ({"decoder": {"dropout": False}}, r"config\.decoder\.dropout is False: it must be of type float"),
    ({"streaming": {"chunk_ms": "480"}}, r"config\.streaming\.chunk_ms is '480': it must be of type int"),
    ({"attention": {"scorer": "cosine"}}, r"config\.attention\.scorer is 'cosine': .*location, additive, dot"),
    ({"encoder": {"normalisation": None}}, r"config\.encoder\.normalisation is None: .*none, layer, batch"),
    ({"encoder": {"hybrid": {"positions": 3}}}, r"config\.encoder\.hybrid\.positions is 3: .*rotary"),
    # not numbers
    ({"search": {"length_bonus": float("nan")}}, r"config\.search\.length_bonus is nan: .*finite"),
    ({"search": {"max_tokens_per_second": float("inf")}}, r"max_tokens_per_second is inf: .*finite"),
    ({"search": {"length_bonus": 10**400}}, r"config\.search\.length_bonus is inf: .*finite"),  # was a traceback
    ({"search": {"lm_temperature": 2, "internal_lm_share": 0.5}}, "lm_temperature is 2.*1 with internal_lm_share"),
    # bounds
    ({"vocab_size": 4}, "vocab_size is 4: it must be more than the 4 special tokens"),
    ({"features": {"win_length": 600}}, "features.win_length is 600"),
    ({"features": {"hop_length": 0}}, "features.hop_length is 0"),
    ({"features": {"f_max": 9_000.0}}, "features.f_max is 9000.0: it must be at most half the sample_rate"),
    ({"features": {"f_min": 8_000}}, "features.f_min is 8000.0: .*below f_max"),
    ({"features": {"n_mels": 0}}, "features.n_mels is 0"),
    ({"encoder": {"joins": []}}, r"encoder.joins is \(\)"),
    ({"encoder": {"joins": [2, 0]}}, r"encoder.joins is \(2, 0\)"),
    ({"encoder": {"joins": [8, 8]}}, r"encoder.joins is \(8, 8\): .*product"),
    ({"encoder": {"dropout": 1}}, "encoder.dropout is 1.0"),
    ({"encoder": {"hidden_size": -1}}, "encoder.hidden_size is -1"),
    ({"encoder": {"hidden_size": 6, "hybrid": {"layers": 1}}}, "encoder.hybrid.heads is 4: .*divisor"),
    ({"encoder": {"hybrid": {"past_frames": 0}}}, "hybrid.past_frames is 0"),
    ({"attention": {"heads": 2}}, "attention.heads is 2: it must be 1 for this scorer"),
    ({"attention": {"scorer": "multi_head", "size": 9, "heads": 2}}, "attention.heads is 2: .*divisor of size 9"),
    ({"attention": {"location_width": 10}}, "attention.location_width is 10: .*odd"),
    ({"attention": {"location_width": -1}}, "attention.location_width is -1: .*positive"),
    ({"attention": {"window_frames": 0}}, "attention.window_frames is 0"),
    ({"decoder": {"layers": 0}}, "decoder.layers is 0"),
    ({"search": {"beam_size": 0}}, "search.beam_size is 0"),
    ({"search": {"nbest": 9}}, "search.nbest is 9: .*beam_size"),
    ({"search": {"ctc_weight": 1.5}}, "search.ctc_weight is 1.5"),
    ({"streaming": {"chunk_ms": 0}}, "context.chunk_ms is 0"),
    ({"streaming": {"lookahead_ms": -20}}, "context.lookahead_ms is -20"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_is_wrong_is_named(settings: dict[str, Any], message: str) -> None:
    """One line names the setting, its value and the bound."""
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict(ModelConfig, {"vocab_size": 30, **settings})
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.vocab_size is missing"):
        from_dict(ModelConfig, {})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_table_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match="table of settings"):
        from_dict(ModelConfig, data)


def test_bounds_hold_in_python_too() -> None:
    """Settings in code are checked like those from a file."""
    with pytest.raises(ConfigError, match="beam_size is 300"):
        SearchConfig(beam_size=300)
    with pytest.raises(ConfigError, match="scorer is 'cosine'"):
        AttentionConfig(scorer="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lm_weight", "length_bonus", "beam_margin", "max_tokens_per_second"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_of_a_search_are_finite_in_python_too(name: str, value: float) -> None:
    """`--lm-weight inf` passed every bound, and hypotheses had scores of NaN."""
    with pytest.raises(ConfigError, match=rf"search\.{name} is (inf|nan): it must be a finite number"):
        SearchConfig(**{name: value})


def test_derived_sizes() -> None:
    """Sizes derived from settings, on which other parts rely."""
    assert UNUSUAL.encoder.reduction == 6
    assert UNUSUAL.encoder.output_size == 64
    assert EncoderConfig(hidden_size=64).output_size == 128
    assert UNUSUAL.frame_seconds == pytest.approx(0.06)
