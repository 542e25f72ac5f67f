"""The recipe of the default model: its settings are valid, and its script says what it does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import asr
from asr.training.config import read_config

RECIPE = Path(__file__).parents[2] / "recipes" / "default_model"


def test_the_settings_make_a_model_like_the_shipped_one() -> None:
    config, shipped = read_config(RECIPE / "base.toml"), asr.load("default").model.config

    assert config.encoder.joins == shipped.encoder.joins
    assert config.encoder.hidden_size == shipped.encoder.hidden_size
    assert config.attention == shipped.attention
    assert config.tokenizer.vocab_size == shipped.vocab_size
    assert config.streaming == shipped.streaming


@pytest.mark.parametrize("stage", ["--help", "nonsense"])
def test_the_script_tells_its_stages(tmp_path: Path, stage: str) -> None:
    arguments = [stage] if stage == "--help" else [str(tmp_path), str(tmp_path / "work"), stage]

    done = subprocess.run([RECIPE / "run.sh", *arguments], capture_output=True, text=True, check=False)

    if stage == "--help":
        assert done.returncode == 0
        assert "prepare label synthesise train average lm evaluate" in done.stdout
    else:
        assert done.returncode == 2
        assert "no stage 'nonsense'" in done.stderr
