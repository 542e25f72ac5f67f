"""The GPU benchmark, rehearsed on a CPU with a tiny model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from asr.errors import DataError
from recipes.benchmark import gpu, gpu_report
from tests.support.small_model import small_model

SMALL = ("--device", "cpu", "--streams", "1", "3", "--seconds", "1.2", "--batch", "2", "--size", "tiny")
SHORT = ("--steps", "1", "--batch-seconds", "4", "--dtype", "float32")


def test_pieces_of_a_run_are_gathered_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = str(small_model(tmp_path / "model")), tmp_path / "gpu.json"
    run = [*SMALL, *SHORT, "--model", model, "--output", str(output)]
    assert gpu.main([*run, "--only", "streams"]) == 0
    first = json.loads(output.read_text())
    assert {"files", "training"}.isdisjoint(first)

    assert gpu.main(run) == 0
    printed = capsys.readouterr()
    found = json.loads(output.read_text())
    assert found["streams"] == first["streams"]  # not measured again
    assert "streams 3, dtype float32: in" in printed.err
    assert len(found["commands"]) == 2
    assert [row["streams"] for row in found["streams"]] == [1, 3]
    assert all(0 < row["step_seconds"]["median"] <= row["step_seconds"]["p95"] for row in found["streams"])
    assert [(row["batch"], row["search"]) for row in found["files"]] == [(2, "default"), (2, "greedy")]
    assert all(row["audio_seconds"] > 10 and row["rtfx"] > 0 for row in found["files"])
    assert found["training"][0]["hours_per_hour"] > 0
    for line in ("3 streams, p50 / p95", "files, batch 2, greedy", "training, tiny", f"torch {torch.__version__}"):
        assert line in printed.out


def test_results_of_another_model_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gpu.json"
    gpu_report.Results(output, {"model": "a", "command": "x"}).add("streams", {"streams": 1}, {})
    gpu_report.Results(output, {"model": "a", "command": "y"}).add("streams", {"streams": 2}, {})
    before = output.read_text()
    small = small_model(tmp_path / "model")
    assert gpu.main([*SMALL, *SHORT, "--model", str(small), "--output", str(output)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "results of" in line
    assert "choose another file" in line
    assert output.read_text() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"origin": 1, "commands": []}', "\x00"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"gpu\.json: not a file of this benchmark"):
        gpu_report.Results(path, {"command": "x"})
    assert path.read_text() == content


def test_the_largest_number_that_keeps_up_has_no_smaller_one_that_does_not() -> None:
    rows = [{"streams": n, "keeps_up": ok} for n, ok in ((512, True), (1, True), (64, True), (2048, False))]
    assert gpu_report.largest(rows) == 512
    assert gpu_report.largest([*rows, {"streams": 8, "keeps_up": False}]) == 1
    assert gpu_report.largest([{"streams": 1, "keeps_up": False}]) == 0


def test_the_table_says_how_much_each_number_is_of_real_time() -> None:
    row = {"dtype": "bfloat16", "peak_bytes": 3 * 2**30}
    steps = {"chunk_seconds": 0.4, "step_seconds": {"median": 0.1, "p95": 0.2}, "real_time_factor": 0.25}
    data = {"streams": [{**row, **steps, "streams": 512, "keeps_up": True}]}
    printed = io.StringIO()
    Console(width=120, file=printed).print(gpu_report.table(data))
    (line,) = (line for line in printed.getvalue().splitlines() if "512 streams, p50" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][2:] == ["100 / 200 ms for 400 ms", "2,048", "3,072"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "error: cuda: no CUDA device can be used here; --device cpu works everywhere\n"


@pytest.mark.gpu
def test_a_gpu_is_measured_with_its_name_and_memory(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    run = [*SMALL, *SHORT, "--device", "cuda", "--model", str(small_model(tmp_path / "model"))]
    assert gpu.main([*run, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["origin"]["processor"] == torch.cuda.get_device_name()
    assert all(row["peak_bytes"] > 0 for part in ("streams", "files", "training") for row in found[part])
