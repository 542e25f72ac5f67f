"""Fixtures of tests that train a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_run import Witness, prepared


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus, prepared."""
    return prepared(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Records the runs of the test, and can kill them."""
    return Witness(monkeypatch)
