"""`spellstream train`, `finetune`, `average` and `train-tokenizer`: options and wrong use."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from asr.errors import ConfigError
from asr.text.tokenizer import Tokenizer
from asr.training import average, precision
from tests.support.commands import Command
from tests.support.small_model import small_model
from tests.support.tiny_run import prepared

TRAIN = ("train", "--dev", "dev", "--output", "run", "--config")


@pytest.fixture(autouse=True)
def _has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the arguments of a run instead of running it."""
    asked: dict[str, Any] = {}

    def train(config: Any, data: list[Path], dev: Path, output: Path, **options: Any) -> Path:
        asked.update(options, config=config, data=data, dev=dev, output=output)
        return output / "best"

    def machine(*given: Any) -> tuple[Any, ...]:
        return given

    monkeypatch.setitem(sys.modules, "asr.training.run", types.SimpleNamespace(train=train, Machine=machine))
    return asked


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a.toml"
    path.write_text("seed = 7\n[optimiser]\nmax_steps = 5000\n")
    return path


def test_train(config: Path, tmp_path: Path, command: Command, asked: dict[str, Any]) -> None:
    options = ["--data", "one", "--noise", tmp_path, "--max-time", "150s", "--device", "cpu"]
    assert command(*TRAIN, config, *options) == (0, "run/best\n", "")
    assert (asked["config"].seed, asked["data"], asked["dev"]) == (7, [Path("one")], Path("dev"))
    assert (asked["weights"], asked["noise"], asked["max_seconds"]) == ([1.0], tmp_path, 150.0)
    assert (asked["machine"], asked["measure_first"]) == (("cpu", 1, 1), False)


def test_a_processor_without_bfloat16_is_one_line(
    config: Path, command: Command, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    line = "spellstream: this processor has no bfloat16: training in float32\n"
    assert command(*TRAIN, config, "--data", "one") == (0, "run/best\n", line)
    assert command(*TRAIN, config, "--data", "one", "--set", "precision=float32") == (0, "run/best\n", "")


def test_train_on_several_corpora_and_machines(config: Path, tmp_path: Path, command: Command, asked: Any) -> None:
    """CORPUS@N repeats a corpus N times per pass, unless a folder has that name."""
    (tmp_path / "odd@2").mkdir()
    data = ["--data", "one@0.5", "--data", tmp_path / "odd@2", "--data", "two@three"]
    machine = ["--devices", 4, "--nodes", 2]
    settings = ["--set", "optimiser.max_steps=9000", "--set", "seed=8"]
    assert command(*TRAIN, config, *data, *machine, *settings, "--max-time", "1h30m5s")[0] == 0
    assert asked["data"] == [Path("one"), tmp_path / "odd@2", Path("two@three")]
    assert asked["weights"] == [0.5, 1.0, 1.0]
    assert (asked["machine"], asked["max_seconds"]) == (("auto", 4, 2), 5405.0)
    assert (asked["config"].optimiser.max_steps, asked["config"].seed) == (9000, 8)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--max-time", "soon"), 2, "'soon' is not a duration: write 2h30m, 90m or 45s"),
        (("--max-time", "0m"), 2, "'0m' is not a duration"),
        (("--devices", "0"), 2, "--devices"),
        (("--set", "sed=8"), 1, "config.sed is not a setting"),
        (("--set", "seed"), 1, "'seed' is not a setting: write key=value"),
    ],
)
def test_wrong_use_is_one_line(
    options: tuple[str, ...], status: int, says: str, config: Path, command: Command, asked: Any
) -> None:
    found, out, err = command(*TRAIN, config, "--data", "one", *options)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert says in err
    assert not asked


def test_finetune_starts_from_a_model_and_says_what_was_gained(
    tmp_path: Path, command: Command, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {0: {"wer": 0.4}, 100: {"wer": 0.25}, 200: {"wer": 0.3}}
    monkeypatch.setattr(average, "measurements", lambda run: measured)
    model = small_model(tmp_path / "model")
    options = ("--data", "mine", "--dev", "dev", "--output", "out", "--model", model, "--set", "seed=3")
    status, out, err = command("finetune", *options)
    assert (status, err) == (0, "")
    assert out == "out/best\nWER on dev: 40.0 % before, 25.0 % after 100 steps\n"
    assert (asked["config"].init, asked["config"].seed, asked["measure_first"]) == (str(model), 3, True)
    assert command("finetune", *options[:-4], "--model", tmp_path / "none")[2].count("\n") == 1


def test_average_names_what_it_took(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    for step in (100, 200, 300):
        small_model(average.folder_of(run, step))
    lines = ['{"step": 100, "wer": 0.2}', '{"step": 200, "wer": 0.4}', '{"step": 300, "wer": 0.3}']
    (run / average.MEASUREMENTS).write_text("\n".join(lines))
    output = tmp_path / "mean"
    expected = (0, f"{output}: mean of step-00000100, step-00000300\n", "")
    assert command("average", run, "--best", 2, "--output", output) == expected
    assert command("average", run, "--last", 2, "--output", output)[1].endswith("step-00000200, step-00000300\n")
    assert command("average", run, "--last", 2, "--best", 1, "--output", output)[0] == 2
    status, _, err = command("average", tmp_path, "--output", output)
    assert (status, err.count("\n")) == (1, 1)
    assert f"{tmp_path}: not a run with measurements" in err


def test_a_tokenizer_is_learned_from_a_corpus_and_from_text(tmp_path: Path, command: Command) -> None:
    """A tokenizer learns from a corpus and from text, which is normalised; other lines are left out."""
    text = tmp_path / "text.txt"
    text.write_text("Hello, World!\nthe year 1984\n\nhello hello\n")
    output = tmp_path / "own.model"
    options = ("--vocab-size", 30, "--kind", "char", "--output", output)
    status, out, _ = command("train-tokenizer", "--text", text, *options)
    tokenizer = Tokenizer.load(output)
    assert (status, out) == (0, f"{output}: {len(tokenizer)} char tokens from 2 sentences\n")
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
    assert command("train-tokenizer", "--data", prepared(tmp_path), *options)[1].endswith("from 8 sentences\n")
    assert command("train-tokenizer", *options)[0] == 2
    for wrong in (("--text", tmp_path / "none.txt"), ("--data", tmp_path / "none")):
        status, _, err = command("train-tokenizer", *wrong, *options)
        assert (status, err.count("\n")) == (1, 1)
        assert "none" in err


def test_the_recipe_configs_and_that_of_fine_tuning_are_sound(repository_root: Path) -> None:
    """Every shipped config is valid, and its settings fit its name."""
    from asr.training.config import read_config

    folder = repository_root / "recipes" / "librispeech" / "configs"
    names = ("las_100h", "las_960h", "las_960h_streaming", "tiny")
    configs = {name: read_config(folder / f"{name}.toml") for name in names}
    assert configs["las_960h_streaming"].encoder == configs["las_960h"].encoder
    assert (configs["las_960h_streaming"].streaming.chunk_ms, configs["las_960h_streaming"].chunk_ms[0]) == (400, 0)
    assert len(configs["las_100h"].stages()) == 4
    with pytest.raises(ConfigError, match="growth"):
        read_config(
            repository_root / "recipes/librispeech/configs/las_100h.toml",
            ["optimiser.max_steps=5000", "optimiser.decay_steps=0"],
        )


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_data_that_is_not_there_leaves_no_run_behind(name: str, tmp_path: Path, command: Command) -> None:
    """A run without data left an empty folder, which looked like a started run."""
    config = tmp_path / "run.toml"
    config.write_text("")
    options = ("--config", config) if name == "train" else ()
    wrong = ("--data", tmp_path / "none", "--dev", tmp_path / "none", "--output", tmp_path / "run")
    status, out, err = command(name, *options, *wrong)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert str(tmp_path / "none") in err
    assert not (tmp_path / "run").exists()
