"""The upload benchmark: uploads are decoded, a refusal is an error, and ratios are of medians."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import asr
from asr.errors import SpellstreamError
from recipes.benchmark import uploads
from recipes.benchmark.uploads import Timed
from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running
from tests.support.small_model import small_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    engine = Engine(asr.load(str(small_model(tmp_path_factory.mktemp("model"))), "cpu"))
    with running(ServerConfig(), engine) as made:
        yield made


def test_an_upload_is_answered(server: Running, repository_root: Path, tmp_path: Path) -> None:
    url = server.ws_url.replace("ws://", "http://")
    assert b'"text"' in uploads.send(url, repository_root / "recipes/sample.flac")
    (tmp_path / "text.flac").write_text("no audio")
    with pytest.raises(SpellstreamError, match="the server answered 4"):
        uploads.send(url, tmp_path / "text.flac")


def test_the_table_has_both_ratios() -> None:
    rows = [
        Timed("transcribe", 1, [10.0, 12.0, 50.0], [9.0, 9.0, 9.0]),
        Timed("upload", 1, [15.0, 15.0, 15.0], [10.0, 10.0, 10.0]),
        Timed("transcribe", 2, [6.0, 6.0, 6.0], [9.0, 9.0, 9.0]),
        Timed("upload", 2, [7.5, 7.5, 7.5], [10.0, 10.0, 10.0]),
    ]
    printed = io.StringIO()
    Console(width=120, file=printed).print(uploads.table(rows, 600.0))
    lines = [line.replace("│", " ").split() for line in printed.getvalue().splitlines() if "transcribe " in line]
    lines += [line.replace("│", " ").split() for line in printed.getvalue().splitlines() if "upload  " in line]
    cells = {(line[0], line[1]): line[2:] for line in lines if line[1].isdigit()}
    assert cells["transcribe", "2"] == ["6.0", "9.0", "0.0150", "2.00"]
    assert cells["upload", "1"] == ["15.0", "10.0", "0.0167", "1.00", "1.25"]
    assert cells["upload", "2"] == ["7.5", "10.0", "0.0167", "2.00", "1.25"]
