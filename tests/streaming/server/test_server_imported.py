"""A server with a model imported from SpeechBrain: streams over vosk's protocol, and OpenAI uploads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor
from websockets.asyncio.client import connect

import asr
from asr.audio import load
from asr.commands.main import main
from streaming.engine import Engine
from streaming.server.config import ServerConfig
from tests.support.serving import Running, running
from tests.support.speechbrain_folder import speechbrain_folder
from tests.support.streams import finals, listen
from tests.support.uploads import form, post


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SpeechBrain model, imported by the command."""
    folder = tmp_path_factory.mktemp("imported")
    source = speechbrain_folder(folder / "theirs")
    assert main(["import", "speechbrain", str(source), "--output", str(folder / "ours"), "--half"]) == 0
    return folder / "ours"


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    torch.set_num_threads(1)
    return Engine(asr.load(model, device="cpu"))


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(ServerConfig(), engine) as made:
        yield made


@pytest.fixture(scope="module")
def sample(repository_root: Path) -> Tensor:
    return load(repository_root / "recipes" / "sample.flac")[:40_000]


async def talk(url: str, waveform: Tensor) -> list[dict[str, Any]]:
    answers = []
    async with connect(url) as socket:
        await socket.send(json.dumps({"config": {"sample_rate": 16_000, "style": "spoken"}}))
        for samples in waveform.split(3_200):
            await socket.send((samples.clamp(-1, 1) * 32767).round().short().numpy().tobytes())
            answers.append(json.loads(await socket.recv()))
        await socket.send('{"eof" : 1}')
        answers.append(json.loads(await socket.recv()))
    return answers


def test_a_stream_gets_what_the_engine_says(server: Running, engine: Engine, sample: Tensor) -> None:
    answers = asyncio.run(talk(server.ws_url, sample))
    heard = (sample.clamp(-1, 1) * 32767).round() / 32768
    expected = [final.text for final in finals(listen(engine, [heard]))]
    assert "".join(expected)
    assert [answer["text"] for answer in answers if answer.get("text")] == expected
    assert any(answer.get("partial") for answer in answers)


def test_an_upload_gets_the_text_of_the_file(server: Running, model: Path, sample: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sample.numpy(), 16_000)
    expected = asr.load(model, device="cpu").transcribe(path).text
    assert expected
    status, answer = post(server, form(path.read_bytes()))
    assert (status, answer["text"]) == (200, expected)
