"""Fixtures for tests of fast paths."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def inference() -> Iterator[None]:
    """The same random numbers in every test, and no gradients."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
