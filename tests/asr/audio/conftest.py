"""Files in many formats, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.containers import KINDS, SECONDS, make


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An intact 3 s file of each format, by suffix."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which makes the files, is missing")
    folder = tmp_path_factory.mktemp("originals")
    return {suffix: make(folder, suffix, SECONDS) for suffix in KINDS}
