"""Audio faster than the engine: dropped audio, notices to clients, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

import asr
from streaming.engine import Engine
from streaming.server.config import ServerConfig, ServerLimits
from tests.support.serving import running
from tests.support.small_model import small_model


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_a_live_stream_loses_what_the_engine_has_no_time_for_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live streams could not be requested, and the metric of dropped audio stayed 0. Other clients lose nothing."""
    engine = Engine(asr.load(str(small_model(tmp_path)), "cpu"))
    step = engine.step

    def late(*arguments: Any) -> Any:
        time.sleep(0.01)
        return step(*arguments)

    async def flood(url: str, **config: Any) -> dict[str, Any]:
        async with connect(url) as websocket:
            await websocket.send(json.dumps({"config": {"sample_rate": 16_000, **config}}))
            await websocket.send(b"\0" * 160_000)
            await websocket.recv()
            await websocket.send('{"eof": 1}')
            return dict(json.loads(await websocket.recv()))

    with running(ServerConfig(limits=ServerLimits(load_share=100, max_behind_seconds=1)), engine) as made:
        monkeypatch.setattr(engine, "step", late)
        assert asyncio.run(flood(made.ws_url)) == {"text": ""}
        assert "spellstream_dropped_audio_seconds_total 0.0" in metrics(made.url)
        answer = asyncio.run(flood(made.ws_url, live=True))
        assert answer["text"] == ""
        assert 0.5 < answer["dropped_seconds"] < 5
        dropped = re.search(r"^spellstream_dropped_audio_seconds_total (.*)$", metrics(made.url), re.MULTILINE)
    assert dropped
    assert float(dropped[1]) == pytest.approx(answer["dropped_seconds"], abs=1e-3)
