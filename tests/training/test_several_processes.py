"""Slow tests of training: several processes, a real kill, the largest recipe at full size."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_run import prepared, steps

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def started(*command: object) -> str:
    """Standard output of a program, which must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """The same utterances in one process, or split unevenly between two, give the same loss and weights.

    Only the mean context, an estimate and not a weight, differs: two processes take it from the first one's utterances.
    """
    results = []
    for count in (1, 2):
        output = tmp_path / str(count)
        output.mkdir()
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count) if count > 1 else ()
        started(*launcher, ROOT / "tests/support/two_processes.py", output)
        results.append(load_file(output / "result.safetensors"))
    one, two = results
    assert len(one["losses"]) == 4
    for result in results:
        assert result.pop("model.decoder.mean_context").any()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_the_command_trains_in_two_processes(tmp_path: Path) -> None:
    """`--devices 2` starts the second process; each measurement is printed once, and the run can be resumed."""
    data, config, run = prepared(tmp_path), tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(
        'extends = "base.toml"\nvalidate_every = 2\nsave_every = 1\n'
        "growth = [{until_step = 2, joins = [6]}]\n[optimiser]\nmax_steps = 4\ndecay_steps = 0\n"
    )
    base = ROOT / "recipes" / "librispeech" / "configs" / "tiny.toml"
    (tmp_path / "base.toml").write_text(base.read_text())
    train = ("-m", "asr", "train", "--config", config, "--data", data, "--dev", data, "--output", run)
    two = ("--device", "cpu", "--devices", 2)
    out = started(*train, *two).splitlines()
    assert steps("\n".join(out[:-1])) == [2, 4]
    assert out[-1] == str(run / "best")
    out = started(*train, *two, "--set", "optimiser.max_steps=6").splitlines()
    assert steps("\n".join(out[:-1])) == [6]


def test_a_run_killed_for_good_at_any_moment_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Promise 8 with a real kill -9: the final model equals that of an uninterrupted run."""
    data, config = prepared(tmp_path), tmp_path / "tiny.toml"
    config.write_text(
        "validate_every = 10\nsave_every = 3\n[encoder]\njoins = [2, 2]\nhidden_size = 16\n"
        "[tokenizer]\nkind = 'char'\nvocab_size = 20\n[data]\nbatch_seconds = 2\nmax_seconds = 2\nworkers = 1\n"
        "[optimiser]\nmax_steps = 40\ndecay_steps = 10\nema_decay = 0.9\n"
    )
    train = (
        "-m",
        "asr",
        "train",
        "--config",
        config,
        "--data",
        data,
        "--dev",
        data,
        "--device",
        "cpu",
        "--output",
    )
    started(*train, tmp_path / "unbroken")
    killed = tmp_path / "killed"
    command = [sys.executable, *map(str, train), str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)})
    while not (killed / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.5))
    process.kill()
    assert process.wait() == -9, "the run was over before it could be killed"
    assert not (killed / "models" / "step-00000040").exists()
    started(*train, killed)
    one, other = (load_file(run / "last" / "model.safetensors") for run in (tmp_path / "unbroken", killed))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=0, rtol=0, msg=name)


def test_the_largest_recipe_takes_a_step_within_three_gib(repository_root: Path) -> None:
    """A step of las_960h at full size on the CPU takes at most 3 GiB for the whole process, libraries included."""
    code = (
        "from pathlib import Path; from asr.training.config import read_config;"
        "from tests.support.large_step import step_on_noise;"
        f"config = read_config(Path({str(repository_root)!r}) / 'recipes/librispeech/configs/las_960h.toml');"
        "print(*step_on_noise(config, utterances=2, seconds=10.0))"
    )
    parameters, peak, loss = started("-c", code).split()
    assert 70e6 < int(parameters) < 80e6
    assert int(peak) < 3 * 2**30
    assert 0 < float(loss) < 50
