"""Fixtures of the Wyoming tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streaming.engine import Engine
from tests.support.serving import Running
from tests.support.wyoming import wyoming_server


@pytest.fixture(scope="module")
def wyoming(shipped_engine: Engine) -> Iterator[Running]:
    """A server with the shipped model, which also speaks Wyoming."""
    with wyoming_server(shipped_engine) as live:
        yield live


@pytest.fixture(scope="module")
def port(wyoming: Running) -> int:
    """Its Wyoming port."""
    port = wyoming.service.config.wyoming_port
    assert port is not None
    return port
